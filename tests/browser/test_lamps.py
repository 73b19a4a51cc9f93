"""Lamps over the photo: dragged, scaled and taken away, by mouse, finger and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys

from lumiply.server import FlaskServerThread
from tests.browser.visitor import Visitor
from tests.fakes import FakeEngine, photo_bytes

Serve = Callable[..., FlaskServerThread]
Visit = Callable[..., Visitor]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_a_lamp_is_dragged_moved_scaled_and_drawn_into_the_photo(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).drop(photo_bytes(size=(800, 600))).wait_view("edit")
    page.drag(page.find("[data-lamp=table]"), page.find("#lamps"), 0.3, 0.5)
    lamp = page.find(".lamp")
    assert _place(lamp) == pytest.approx((0.3, 0.5, 0.34), abs=0.02)
    page.drag(lamp, page.find("#lamps"), 0.5, 0.5)
    assert _place(lamp) == pytest.approx((0.5, 0.5, 0.34), abs=0.02)
    before = _place(lamp)[2]
    page.drag(page.find(".lamp .handle"), page.find("#lamps"), 0.75, 0.9)
    assert _place(lamp)[2] > before * 1.5
    page.click("#relight").wait_view("done")
    photo = engine.renders[0].photo
    assert photo.size == (800, 600)
    assert photo.getpixel((20, 20)) == (200, 100, 50)
    shade = photo.getpixel((400, 210))
    assert min(shade) > 180 and max(shade) - min(shade) < 30  # opal glass where the wall was


def test_on_a_phone_a_finger_drags_scales_and_takes_away(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine))
    page.phone(360).drop(photo_bytes(size=(800, 600))).wait_view("edit")
    page.swipe("[data-lamp=floor]", 0.5, 0.5)
    assert _place(page.find(".lamp")) == pytest.approx((0.5, 0.5, 0.66), abs=0.03)
    page.swipe(".lamp", 0.4, 0.5)
    assert _place(page.find(".lamp"))[0] == pytest.approx(0.4, abs=0.03)
    page.swipe(".lamp .handle", 0.55, 0.99).swipe(".lamp .handle", 0.75, 0.99)
    assert _place(page.find(".lamp"))[2] > 1.05  # taller than the photo, and still in reach:
    frame = page.find("#lamps").rect
    for knob in (page.find(".lamp .handle").rect, page.find(".lamp .remove").rect):
        assert frame["x"] <= knob["x"] and knob["x"] + knob["width"] <= frame["x"] + frame["width"]
        assert frame["y"] <= knob["y"] and knob["y"] + knob["height"] <= frame["y"] + frame["height"]
    page.find(".lamp .remove").click()
    assert page.all(".lamp") == []


def test_a_lamp_can_be_handled_by_keys_alone(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine)).drop().wait_view("edit")
    assert not page.find(".keys").is_displayed()
    page.press(page.find("[data-lamp=pendant]"), Keys.ENTER)
    assert page.find(".keys").text.startswith("Arrow keys move it")
    page.press(page.find("[data-lamp=floor]"), Keys.SPACE)
    pendant, floor = page.all(".lamp")
    x, y, height = _place(floor)
    page.press(floor, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP, "+", "+", "-")
    assert _place(floor) == pytest.approx((x - 0.01, y - 0.02, height * 1.05), abs=1e-3)
    page.press(pendant, Keys.DELETE)
    assert len(page.all(".lamp")) == 1
    assert "Floor lamp" in str(page.chrome.switch_to.active_element.get_attribute("aria-label"))


def test_a_lamps_knobs_stand_at_its_edges_however_one_comes_to_it(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).drop().wait_view("edit").click("[data-lamp=table]")
    fresh = _knobs(page)
    page.click("#relight").wait_view("done").reload().wait_view("done").click("#change").wait_view("edit")
    assert _knobs(page) == pytest.approx(fresh, abs=0.01)
    page.click("#relight").wait_view("done").click("#home").wait_view("empty")
    page.click("#rooms .thumb").wait_view("done").click("#language").click("#change").wait_view("edit")
    assert _knobs(page) == pytest.approx(fresh, abs=0.01)


def _place(lamp: Any) -> tuple[float, float, float]:
    """(x, y, height) of a lamp, as shares of the photo's size."""
    style = dict(part.split(": ") for part in lamp.get_attribute("style").rstrip("; ").split("; "))
    return tuple(float(style[name].rstrip("%")) / 100 for name in ("left", "top", "height"))  # type: ignore[return-value]


def _knobs(page: Visitor) -> list[float]:
    """Where the middles of a lamp's knobs are: (x, y) of each, as shares of the lamp's size."""
    lamp = page.find(".lamp").rect
    places = []
    for name in ("handle", "remove"):
        knob = page.find(f".lamp .{name}").rect
        places += [(knob["x"] + knob["width"] / 2 - lamp["x"]) / lamp["width"]]
        places += [(knob["y"] + knob["height"] / 2 - lamp["y"]) / lamp["height"]]
    return places
