"""An S3 server of one's own: moto's, in a process of its own, behind a door on this machine that tests may close."""

from __future__ import annotations

import http.client
import logging
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Request, Response

#: What botocore reads: a key that moto takes, and nothing of this machine's own.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
MOTO = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
#: Headers of one connection that say nothing to the next.
_OF_ONE_HOP = {"connection", "transfer-encoding", "date", "server"}

#: What to answer to a request in place of S3's own answer; None lets it through.
Rule = Callable[[Request], "Response | None"]


def refusal(status: int, code: str) -> Response:
    """An error as S3 servers word it."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} it is.</Message></Error>"
    return Response(text, status, content_type="application/xml")


class S3Server:
    """Listens on 127.0.0.1 from `start()` to `stop()`, always on the same port, and keeps what it holds meanwhile.

    Attributes:
        rule: asked about each request.
        asked: (method, path) of the requests so far.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.rule: Rule = lambda request: None
        self.asked: list[tuple[str, str]] = []
        self._moto = subprocess.Popen(
            [sys.executable, "-c", MOTO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._moto.stdout is not None
        self._moto_port = int(self._moto.stdout.readline())
        self._port = 0
        self._server: BaseWSGIServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of programs that are to use it."""
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL_S3": self.url}

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._moto.communicate("")  # the end of its input ends it

    def client(self) -> Any:
        """boto3's client for it."""
        return boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1",
            aws_access_key_id="tester", aws_secret_access_key="secret",
        )  # fmt: skip

    def new_url(self) -> str:
        """A place in a bucket of its own."""
        bucket = f"bucket-{uuid.uuid4().hex}"
        self.client().create_bucket(Bucket=bucket)
        return f"s3://{bucket}/results"

    def keys(self, bucket: str) -> list[str]:
        """Names of all objects."""
        return [found["Key"] for found in self.client().list_objects_v2(Bucket=bucket).get("Contents", [])]

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        self.asked.append((request.method, request.path))
        return (self.rule(request) or self._forward(request))(environ, start_response)

    def _forward(self, request: Request) -> Response:
        moto = http.client.HTTPConnection("127.0.0.1", self._moto_port, timeout=30)
        path = request.environ["REQUEST_URI"]
        headers = {name: value for name, value in request.headers if name.lower() not in _OF_ONE_HOP}
        try:
            moto.request(request.method, path, request.get_data(), headers)
            answer = moto.getresponse()
            body = answer.read()
        finally:
            moto.close()
        response = Response(body, answer.status)
        response.automatically_set_content_length = False
        response.headers.clear()
        for name, value in answer.getheaders():
            if name.lower() not in _OF_ONE_HOP:
                response.headers.add(name, value)
        return response
