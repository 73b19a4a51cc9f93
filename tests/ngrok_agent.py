"""Stands in for ngrok's agent: a program that logs like it and speaks its local API. Tests copy it to run it.

What it does is read from `orders.json` beside it: `refuse` (an error before any session), `deny` (an error for each
new tunnel), `url`. It writes its process id and arguments to `runs.jsonl`.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def orders() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "orders.json").read_text())
    return found


def say(level: str, message: str, **more: str) -> None:
    fields = " ".join(f'{name}="{value}"' for name, value in more.items())
    print(f't=2026-01-01T00:00:00+0000 lvl={level} msg="{message}" {fields}', flush=True)


class Api(BaseHTTPRequestHandler):
    tunnels: dict[str, dict[str, Any]] = {}

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        kind, _, name = self.path.removeprefix("/api/").partition("/")
        if not name:
            self._answer(200, {kind: list(self.tunnels.values()), "uri": self.path})
        elif name in self.tunnels:
            self._answer(200, self.tunnels[name])
        else:
            self._answer(404, {"msg": "no such tunnel"})

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "deny" in orders():
            self._answer(
                502,
                {
                    "error_code": 103,
                    "status_code": 502,
                    "msg": "failed to start tunnel",
                    "details": {"err": orders()["deny"]},
                },
            )
            return
        target = wanted.get("upstream", {}).get("url") or wanted.get("addr")
        tunnel = {
            "name": wanted["name"],
            "uri": f"{self.path}/{wanted['name']}",
            "public_url": orders()["url"],
            "url": orders()["url"],
            "proto": "https",
            "config": {"addr": target},
        }
        self.tunnels[wanted["name"]] = tunnel
        self._answer(201, tunnel)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    config = Path(sys.argv[sys.argv.index("--config") + 1])
    with (HERE / "runs.jsonl").open("a") as runs:
        mode = oct(config.stat().st_mode & 0o777)
        run = {"pid": os.getpid(), "arguments": sys.argv[1:], "config": config.read_text(), "mode": mode}
        runs.write(json.dumps(run) + "\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    say("info", "starting web service", obj="web", addr=f"127.0.0.1:{server.server_port}")
    if "refuse" in orders():
        say("eror", "failed to auth", obj="tunnels.session", err=orders()["refuse"])
        sys.exit(1)
    say("info", "client session established", obj="csess")
    say("info", "tunnel session started", obj="tunnels.session")
    server.serve_forever()


if __name__ == "__main__":
    main()
