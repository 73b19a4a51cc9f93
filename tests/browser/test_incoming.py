"""Photos that come in the wrong moment, in the wrong order, or from the page itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys

from lumiply.server import FlaskServerThread
from tests.browser.between import Guard
from tests.browser.visitor import Visitor
from tests.fakes import FakeEngine, photo_bytes

Serve = Callable[..., FlaskServerThread]
Visit = Callable[..., Visitor]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

#: Pictures of this width are decoded when the test says so.
SLOW = 555

_HOLD = f"""
const decode = Image.prototype.decode;
window.held = [];
Image.prototype.decode = async function () {{
  await decode.call(this);
  if (this.naturalWidth === {SLOW}) await new Promise((resolve) => held.push(resolve));
}};
"""


@contextlib.contextmanager
def slow(page: Visitor, ask: Callable[[], object]) -> Iterator[None]:
    """Ask for a picture of that width; it is decoded only after what is done meanwhile."""
    page.chrome.execute_script(_HOLD)
    ask()
    page.wait(lambda: page.chrome.execute_script("return held.length"), "the photo does not come")
    yield
    page.chrome.execute_script("for (const resolve of held) resolve()")
    page.settle()


def slow_photo(page: Visitor, red: int) -> contextlib.AbstractContextManager[None]:
    """Drop a photo that takes long."""
    return slow(page, lambda: page.drop(photo_bytes(red=red, size=(SLOW, 300))))


def test_a_photo_that_comes_while_the_token_is_asked_for_is_left_out(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine, Guard("sesame").around)).drop().wait_view("edit").click("#relight")
    page.wait(page.find("#token-dialog").is_displayed, "no question for a token")
    other = ("other.png", "image/png", photo_bytes(red=20, size=(320, 240)))
    page.bring(other).bring(other, paste=True)
    assert "dropping" not in (page.find("body").get_attribute("class") or "")
    page.press(page.find("#token"), "sesame", Keys.ENTER).wait_view("done")
    assert [render.photo.getpixel((0, 0))[0] for render in engine.renders] == [200]
    assert page.pixel(".compare .before")[0] > 150


def test_a_token_given_for_a_photo_that_has_made_way_is_kept_for_the_next(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine, Guard("sesame").around)).drop().wait_view("edit")
    with slow_photo(page, red=20):
        page.click("#relight")
        page.wait(page.find("#token-dialog").is_displayed, "no question for a token")
    page.press(page.find("#token"), "sesame", Keys.ENTER).settle()
    assert page.view == "edit"
    page.click("#relight").wait_view("done")
    assert [render.photo.getpixel((0, 0))[0] for render in engine.renders] == [20]


def test_of_two_photos_the_one_given_last_stays(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine))
    with slow_photo(page, red=20):
        page.drop().wait_view("edit").click("[data-lamp=table]")
    assert page.pixel("#photo") == [200, 100, 50]
    assert len(page.all(".lamp")) == 1


def test_a_photo_that_takes_long_does_not_take_the_place_of_a_room_opened_later(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).relight().click("[data-in=done] [data-do=other]").wait_view("empty")
    with slow_photo(page, red=20):
        page.click("#rooms .thumb").wait_view("done")
    assert page.view == "done"
    assert page.pixel(".compare .before")[0] > 150


def test_a_room_that_takes_long_does_not_take_the_place_of_a_photo_given_later(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).drop(photo_bytes(red=20, size=(SLOW, 300))).wait_view("edit")
    page.click("#relight").wait_view("done").click("[data-in=done] [data-do=other]").wait_view("empty")
    with slow(page, lambda: page.click("#rooms .thumb")):
        page.drop().wait_view("edit")
    assert page.view == "edit"
    assert page.pixel("#photo") == [200, 100, 50]


def test_the_pages_own_pictures_cannot_be_dropped_as_photos(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine))
    watch = "window.drags = []; addEventListener('dragstart', (event) => drags.push(event.target.outerHTML))"
    page.chrome.execute_script(watch)
    for picture in (".hero img", "[data-sample] img", "#home img"):
        page.drag(page.find(picture), page.find("#drop"), 0.5, 0.2)
        assert page.chrome.execute_script("return drags") == []
    page.chrome.execute_script("scrollTo(0, 0)")
    page.click("#home").wait_view("empty").relight().click("#change").wait_view("edit")
    page.click("[data-lamp=table]").drag(page.find("#rooms .thumb img"), page.find("#edit-title"), 0.5, 0.5)
    assert page.chrome.execute_script("return drags") == []
    assert len(page.all(".lamp")) == 1


def test_of_several_files_the_first_picture_is_taken(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine))
    files = [
        ("notes.txt", "text/plain", b"x"),
        *(("a.png", "image/png", photo_bytes(red)) for red in (20, 90)),
    ]
    page.bring(*files).wait_view("edit")
    assert page.pixel("#photo") == [20, 100, 50]


@pytest.mark.parametrize(
    ("photo", "saved"),
    [
        ("ห้องนอน.png", "ห้องนอน"),
        ("Ku\u0308che 1.png", "Küche_1"),
        ("\u1100\u1165\u1109\u1175\u11af.png", "거실"),
    ],
)
def test_a_photos_name_in_any_script_is_its_files_name(
    serve: Serve, visit: Visit, engine: FakeEngine, tmp_path: Path, photo: str, saved: str
) -> None:
    page = visit(serve(engine)).drop(name=photo).wait_view("edit").click("#relight").wait_view("done")
    page.downloads_to(tmp_path)
    page.click("#save").wait(lambda: list(tmp_path.glob("*.jpg")), "no file")
    assert [file.name for file in tmp_path.glob("*.jpg")] == [f"{saved}_white.jpg"]
