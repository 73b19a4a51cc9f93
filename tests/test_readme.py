"""The README tells the server's answer and the measured scores; `tests/documents` tries its commands and links."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

from lumiply.colors import BASE_COLOR
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


def scores() -> dict[str, Any]:
    measured: dict[str, Any] = json.loads((ROOT / "benchmarks/results/mini_rooms.json").read_text())
    return measured


def row(color: dict[str, Any], bars: dict[str, float]) -> list[str]:
    """A colour's row: what misses its bar in italics, and with decimals enough to see it."""
    over_unchanged = color["psnr"] - color["unchanged"]
    over_gain_and_tint = color["psnr"] - color["gain_and_tint"]

    def at_least(value: float, bar: float, form: str) -> str:
        shown = format(value, form)
        assert (float(shown) < bar) == (value < bar), "rounding hides a miss"
        return f"*{shown}*" if value < bar else shown

    hue = f"{color['hue_error']:.1f}°"
    assert (float(hue[:-1]) > bars["hue_error"]) == (color["hue_error"] > bars["hue_error"])
    if color["color"] == BASE_COLOR:
        hue = ""
    elif color["hue_error"] > bars["hue_error"]:
        hue = f"*{hue}*"
    return [
        color["color"],
        at_least(color["psnr"], bars["psnr"], ".2f"),
        at_least(over_unchanged, bars["over_unchanged"], "+.2f"),
        at_least(over_gain_and_tint, bars["over_gain_and_tint"], "+.2f"),
        at_least(color["ssim"], bars["ssim"], ".4f"),
        hue,
        at_least(color["identity"], bars["identity"], ".3f"),
    ]


def test_the_scores_shown_are_the_measured_ones_with_every_miss_in_italics():
    text, measured = (ROOT / "README.md").read_text(), scores()
    shown = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.search(r"\| colour \| PSNR.*?\n\|[-|]*\n(.*?)\n\n", text, re.S)[1].splitlines()
    ]
    bars = measured["bars"]
    assert shown[:-1] == [row(color, bars) for color in measured["colors"]]
    aims = [float(cell.strip("+°")) for cell in shown[-1][1:]]
    names = ("psnr", "over_unchanged", "over_gain_and_tint", "ssim", "hue_error", "identity")
    assert aims == [bars[name] for name in names]


def test_the_sentence_below_the_scores_tells_the_measured_misses():
    text, measured = " ".join((ROOT / "README.md").read_text().split()), scores()
    colors, bars = {color["color"]: color for color in measured["colors"]}, measured["bars"]
    psnr = {name: bars["psnr"] - color["psnr"] for name, color in colors.items()}
    identity = [bars["identity"] - color["identity"] for color in colors.values()]
    missed = [by for by in identity if by > 0]
    nearest, furthest = min(psnr, key=psnr.__getitem__), max(psnr, key=psnr.__getitem__)
    assert f"by {psnr[nearest]:.2f} dB ({nearest}) to {psnr[furthest]:.2f} dB ({furthest})" in text
    assert len(missed) == 3 and f"misses it in three, by {min(missed):.3f} to {max(missed):.3f}" in text
    others = {miss for color in colors.values() for miss in color["misses"]}
    assert others == {"PSNR < 26", "identity < 0.95"}


def test_the_scores_are_of_the_rooms_that_the_command_beside_them_names():
    text, settings = (ROOT / "README.md").read_text(), scores()["settings"]
    asked = f"--rooms {settings['rooms']} --count {settings['count']}\n"
    assert f"python -m lumiply.evaluation.rooms {asked}" in text
    assert f"lumiply synth --split test --out {settings['rooms']} --count {settings['count']} " in text
    assert f"The mini model on {settings['count']} rendered rooms" in text
    assert {color["rooms"] for color in scores()["colors"]} == {settings["count"]}
