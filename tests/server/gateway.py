"""What the gateway does, call by call (docs/design/CONTRACT.md, 1 to 5), over real HTTP and nothing of ours."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from typing import Final

COLORS: Final = ("white", "red", "orange", "yellow", "green", "blue", "purple")
HEADERS: Final = {"ngrok-skip-browser-warning": "true", "User-Agent": "FastAPI-Client/1.0"}


class JobFailed(Exception):
    """Any status but 200 fails the gateway's whole job."""


@dataclass
class Gateway:
    """Relights photos through one webhook address.

    Attributes:
        webhook: what an operator pasted into `COLAB_WEBHOOK_URL`.
    """

    webhook: str
    timeout: float = 300.0
    images: dict[str, str] = field(default_factory=dict)

    def test_connection(self) -> dict:
        """3: GET the webhook with the text `/process` replaced by `/health`."""
        return json.loads(self._open(self.webhook.replace("/process", "/health"))[0])

    def run(self, photo: bytes, job_id: str | None = None) -> dict[str, str]:
        """1 and 2: seven calls one after the other; addresses by colour, and of the input as `input`."""
        job_id = job_id or str(uuid.uuid4())
        images: dict[str, str] = {}
        for color in COLORS:
            answer = self._process(photo, job_id, color)
            result = answer["result"]
            images[color] = (result.get("images") or {}).get(color) or result["image_url"]
            images.setdefault("input", result["input_image_url"])
        return images

    def download(self, url: str) -> tuple[bytes, str, str]:
        """4: (body, content type, name of the download)."""
        body, content_type = self._open(url)
        return body, content_type, url.partition("?")[0].rpartition("/")[2]

    def _process(self, photo: bytes, job_id: str, color: str) -> dict:
        boundary = uuid.uuid4().hex
        fields = {"job_id": job_id, "callback_url": "", "color": color}
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="3f2b_room_with_lights.png"\r\n'
            "Content-Type: image/png\r\n\r\n".encode()
            + photo
            + f"\r\n--{boundary}--\r\n".encode()
        )
        request = urllib.request.Request(
            self.webhook,
            data=b"".join(parts),
            headers={**HEADERS, "Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        return json.loads(self._open(request)[0])

    def _open(self, request: str | urllib.request.Request) -> tuple[bytes, str]:
        if isinstance(request, str):
            request = urllib.request.Request(request, headers=HEADERS)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=self.timeout) as answer:
                if answer.status != 200:
                    raise JobFailed(f"{answer.status}")
                return answer.read(), answer.headers["Content-Type"]
        except urllib.error.HTTPError as exc:
            with exc:
                raise JobFailed(f"{exc.code} {exc.read()!r}") from exc
