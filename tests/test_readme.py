"""The answer that the README shows is the server's; its commands and links are tested in `tests/documents`."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path

from lumiply.server import create_app
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes

ROOT = Path(__file__).parents[1]


def test_the_answer_shown_is_the_servers_answer(tmp_path):
    text = (ROOT / "README.md").read_text()
    shown = json.loads(re.search(r"```json\n(.*?)```", text, re.S)[1])
    curl = re.search(r"curl (.*) (http://\S+)/process", text)
    fields = dict(part.split("=", 1) for part in re.findall(r"-F (\S+)", curl[1]))
    assert (ROOT / fields.pop("image").removeprefix("@")).is_file()
    app = create_app(Settings(results_dir=tmp_path), FakeEngine())
    form = {**fields, "image": (BytesIO(photo_bytes()), "room.png", "image/png")}
    answer = app.test_client().post("/process", data=form, base_url=curl[2])
    site_of(app).close()
    assert answer.status_code == 200
    assert answer.get_json() == shown
