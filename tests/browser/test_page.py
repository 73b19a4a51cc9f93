"""The page in a browser: drop, place a lamp, relight, compare, choose, keep."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys

from lumiply.colors import COLORS
from lumiply.server import FlaskServerThread
from tests.browser.between import Guard, Jobs, Recorder
from tests.browser.visitor import Visitor
from tests.fakes import FakeEngine, photo_bytes

Serve = Callable[..., FlaskServerThread]
Visit = Callable[..., Visitor]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_a_dropped_photo_comes_out_in_seven_colours_of_one_render(serve: Serve, visit: Visit) -> None:
    engine = FakeEngine(manual=True)
    page = visit(serve(engine)).drop().wait_view("edit")
    page.click("#relight").wait_view("busy")
    render = engine.wait_for(1)
    assert page.ready() == []
    render.finish()
    page.wait_view("done")
    assert page.ready() == list(COLORS)
    assert (render.photo.size, render.colors, len(engine.renders)) == ((320, 240), COLORS, 1)
    assert render.photo.getpixel((160, 120)) == (200, 100, 50)  # the photo as it is, without loss


def test_a_chosen_file_and_a_sample_do_as_well(
    serve: Serve, visit: Visit, engine: FakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "mine.jpg").write_bytes(photo_bytes(red=30, format="JPEG"))
    page = visit(serve(engine))
    page.find("#file").send_keys(str(tmp_path / "mine.jpg"))
    page.wait_view("edit").click("[data-do=other]").wait_view("empty")
    page.click("[data-sample]").wait_view("edit")
    assert page.pixel("#photo") == [200, 100, 50]


def test_a_large_photo_is_sent_smaller(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine)).drop(photo_bytes(size=(4000, 1000))).wait_view("edit")
    page.click("#relight").wait_view("done")
    assert engine.renders[0].photo.size == (2048, 512)


def test_seed_and_preset_are_sent_only_if_set(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    recorder = Recorder()
    page = visit(serve(engine, recorder.around)).relight()
    assert b'name="seed"' not in recorder.bodies[0] and b'name="preset"' not in recorder.bodies[0]
    page.click("#change").wait_view("edit").click("#more summary")
    page.find("#seed").send_keys("x7")
    page.click("#relight")
    assert "whole number" in page.notice()
    page.find("#seed").send_keys(Keys.BACKSPACE, Keys.BACKSPACE, "7")
    page.find("#preset").send_keys("Fast")
    count = len(recorder.bodies)
    page.click("#relight").wait(lambda: len(recorder.bodies) > count, "nothing was sent")
    page.wait_view("done")
    assert b'name="seed"\r\n\r\n7\r\n' in recorder.bodies[count]
    assert b'name="preset"\r\n\r\nfast\r\n' in recorder.bodies[count]


def test_the_slider_follows_keys_and_pointer(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine)).relight()
    slider, after = page.find("#split"), page.find(".compare .after")
    page.press(slider, Keys.HOME, *[Keys.ARROW_RIGHT] * 5)
    assert after.value_of_css_property("clip-path") == "inset(0px 0px 0px 5%)"
    page.drag(slider, slider, 0.8, 0.5)
    assert int(slider.get_attribute("value") or 0) == pytest.approx(80, abs=2)
    assert slider.get_attribute("aria-label")


def test_the_palette_follows_clicks_and_keys(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine)).relight()
    assert (page.chosen, page.shown_color()) == ("white", "white")
    page.click("[data-color=green]")
    assert (page.chosen, page.shown_color()) == ("green", "green")
    assert page.find("#light-name").text == "Green light"
    page.press(page.find("[data-color=green]"), Keys.ARROW_RIGHT)
    assert (page.chosen, page.shown_color()) == ("blue", "blue")


def test_one_and_all_can_be_downloaded(
    serve: Serve, visit: Visit, engine: FakeEngine, tmp_path: Path
) -> None:
    page = visit(serve(engine)).relight()
    page.downloads_to(tmp_path)
    page.click("[data-color=blue]").click("#save").click("#save-all")
    page.wait((tmp_path / "room.zip").is_file, "no zip").wait((tmp_path / "room_blue.jpg").is_file, "no file")
    with zipfile.ZipFile(tmp_path / "room.zip") as packed:
        assert packed.testzip() is None
        assert packed.namelist() == ["room_off.jpg", *(f"room_{color}.jpg" for color in COLORS)]
        assert packed.read("room_blue.jpg") == (tmp_path / "room_blue.jpg").read_bytes()
        assert Image.open(BytesIO(packed.read("room_off.jpg"))).size == (320, 240)


def test_only_the_models_presets_are_offered(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine)).drop().wait_view("edit").click("#more summary")
    page.wait(lambda: page.find("#health").text.startswith("Ready"), "no state")
    shown = [option.text for option in page.all("#preset option") if not option.get_attribute("hidden")]
    assert shown == ["Automatic", "Exact", "Fast"]


def test_every_view_has_one_heading_and_nothing_without_a_name(serve: Serve, visit: Visit) -> None:
    engine = FakeEngine(manual=True)
    page = visit(serve(engine))
    for view in ("empty", "edit", "busy", "done"):
        if view == "edit":
            page.drop()
        elif view == "busy":
            page.click("#relight")
        elif view == "done":
            engine.wait_for(1).finish()
        page.wait_view(view)
        assert len([each for each in page.all("h1") if each.is_displayed()]) == 1, view
        for each in page.all("button, input, select, a, summary, [role], [tabindex]"):
            assert not each.is_displayed() or each.accessible_name or each.get_attribute("role") in (
                "status", "alert", None,
            ), each.get_attribute("outerHTML")  # fmt: skip


def test_when_all_is_there_the_keyboard_stands_on_the_palette(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).drop().wait_view("edit")
    page.press(page.find("#relight"), Keys.ENTER).wait_view("done")
    page.wait(
        lambda: page.chrome.switch_to.active_element.get_attribute("data-color") == "white", "elsewhere"
    )
    page.press(page.chrome.switch_to.active_element, Keys.ARROW_RIGHT)
    assert page.chosen == "red"


def test_the_keyboard_never_falls_off_the_page(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine)).drop().wait_view("edit")
    page.press(page.find("#relight"), Keys.ENTER).wait_view("done")
    page.press(page.find("#change"), Keys.ENTER).wait_view("edit")
    assert page.focused == "edit-title"
    page.press(page.find("#relight"), Keys.ENTER).wait_view("done")
    page.press(page.find("[data-in=done] [data-do=other]"), Keys.ENTER).wait_view("empty")
    assert page.focused == "file"
    page.press(page.find("#rooms li:nth-child(2) .remove"), Keys.ENTER)
    page.wait(lambda: len(page.all("#rooms li")) == 1, "not forgotten")
    assert page.chrome.switch_to.active_element == page.find("#rooms .remove")  # the neighbour's
    page.press(page.find("#rooms .remove"), Keys.ENTER)
    page.wait(lambda: page.focused == "file", "on nothing")


def test_while_it_works_the_time_is_shown_and_afterwards_the_model(serve: Serve, visit: Visit) -> None:
    engine = FakeEngine(manual=True)
    page = visit(serve(engine)).drop().wait_view("edit").click("#relight").wait_view("busy")
    page.wait(
        lambda: page.find("#stage-text").text == "All seven colours at once", "it does not say what it does"
    )
    page.wait(lambda: page.find("#clock").text == "0:02", "the clock stands")
    engine.wait_for(1).finish()
    page.wait_view("done")
    assert page.find("#made-by").text == "Rendered by fake at 64 × 64 pixels."
    assert page.reload().wait_view("done").find("#made-by").is_displayed()


def test_a_photo_whose_kind_the_system_does_not_know_is_tried(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).drop(name="room.jfif", type="").wait_view("edit")
    assert page.pixel("#photo") == [200, 100, 50]


def test_another_photo_that_comes_while_one_is_being_drawn_wins(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).drop(photo_bytes(size=(4000, 3000))).wait_view("edit")
    page.chrome.execute_script("for (const id of ['relight', 'home']) document.getElementById(id).click()")
    assert page.view == "empty"
    page.drop(photo_bytes(red=20)).wait_view("edit").click("#relight").wait_view("done")
    assert [render.photo.getpixel((0, 0))[0] for render in engine.renders] == [20]
    assert not page.find("#notice").is_displayed()


def test_where_the_browser_forbids_storage_the_page_works_for_this_visit(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    forbidden = """for (const name of ["sessionStorage", "localStorage", "indexedDB"])
      Object.defineProperty(window, name, {get() { throw new DOMException("denied", "SecurityError"); }});"""
    server = serve(engine, Guard("sesame").around)
    with visit(server).always(forbidden):
        page = visit(server, "?token=sesame").relight()
        assert page.ready() == list(COLORS)
        assert len(page.all("#rooms li")) == 1
        page.click("#language")
        assert page.find("#light-name").text == "흰색 조명"


def test_behind_the_token_there_is_only_the_question_for_it(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    token = "sixteen-or-more-letters"
    server = serve(engine, page="token", token=token)
    page = visit(server, started=False)
    assert page.find("h1").text == "This page asks for a token"
    page.press(page.find("[name=token]"), "wrong", Keys.ENTER)
    page.wait(lambda: page.all(".wrong"), "a wrong token is not called one")
    page.press(page.find("[name=token]"), token, Keys.ENTER).wait_started()
    assert token not in page.chrome.current_url
    page.reload().relight()
    assert page.ready() == list(COLORS)


def test_after_a_reload_everything_is_there_without_a_render(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).relight().click("[data-color=red]").reload().wait_view("done")
    assert page.ready() == list(COLORS)
    assert page.click("[data-color=purple]").shown_color() == "purple"
    assert len(engine.renders) == 1


def test_a_reload_during_a_render_picks_it_up(serve: Serve, visit: Visit) -> None:
    engine = FakeEngine(manual=True)
    page = visit(serve(engine)).drop().wait_view("edit").click("#relight").wait_view("busy")
    render = engine.wait_for(1)
    page.reload().wait_view("busy")
    render.finish()
    page.wait_view("done")
    assert page.ready() == list(COLORS)
    assert len(engine.renders) == 1


def test_cancelling_leads_back_to_the_photo(serve: Serve, visit: Visit) -> None:
    engine = FakeEngine(manual=True)
    page = visit(serve(engine)).drop().wait_view("edit").click("#relight").wait_view("busy")
    engine.wait_for(1)
    page.click("#cancel").wait_view("edit")
    assert page.pixel("#photo") == [200, 100, 50]
    assert page.all("#rooms li") == []


def test_the_history_opens_and_forgets_rooms(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine)).relight().click("[data-in=done] [data-do=other]").wait_view("empty")
    page.drop(photo_bytes(red=20, size=(320, 240))).wait_view("edit").click("#relight").wait_view("done")
    assert len(page.all("#rooms li")) == 2
    page.click("#rooms li:nth-child(2) .thumb").wait(
        lambda: page.pixel(".compare .before")[0] > 150, "not opened"
    )
    page.press(page.find("#rooms li:nth-child(1) .remove"), Keys.ENTER)
    page.wait(lambda: len(page.all("#rooms li")) == 1, "not forgotten")
    page.reload()
    assert len(page.all("#rooms li")) == 1
    page.click("#clear").chrome.switch_to.alert.dismiss()
    assert len(page.all("#rooms li")) == 1
    page.click("#clear").chrome.switch_to.alert.accept()
    page.wait(lambda: not page.find("#history").is_displayed(), "not cleared")
    assert page.reload().view == "empty"


def test_it_speaks_the_browsers_language_and_the_chosen_one(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine))
    assert page.find("h1").text == "Turn on the lamp."
    page.click("#language")
    assert page.find("h1").text == "방에 불을 켜 보세요."
    page.reload()
    assert page.find("html").get_attribute("lang") == "ko"
    assert page.find("h1").text == "방에 불을 켜 보세요."


def test_a_token_is_asked_for_kept_and_sent(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    guard = Guard("sesame")
    page = visit(serve(engine, guard.around)).drop().wait_view("edit").click("#relight")
    dialog = page.find("#token-dialog")
    page.wait(dialog.is_displayed, "no question for a token")
    assert not page.find("#token-wrong").is_displayed()
    page.press(page.find("#token"), "wrong", Keys.ENTER)
    page.wait(lambda: page.find("#token-wrong").is_displayed(), "a wrong token is not called one")
    page.press(page.find("#token"), "sesame", Keys.ENTER).wait_view("done")
    assert page.chrome.execute_script("return localStorage.length") == 0
    assert page.reload().view == "done"


def test_a_token_in_the_address_is_taken_out_of_it(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine, Guard("sesame").around), "?token=sesame").relight()
    assert "sesame" not in page.chrome.current_url


def test_jobs_that_the_server_tells_of_show_progress_and_bring_pictures(serve: Serve, visit: Visit) -> None:
    engine, recorder = FakeEngine(manual=True), Recorder()
    jobs = Jobs()
    page = visit(serve(engine, lambda app: recorder.around(jobs.around(app))))
    page.drop().wait_view("edit").click("#relight").wait_view("busy")
    jobs.state, jobs.place = "queued", 3
    page.wait(lambda: page.find("#stage-text").text == "3 before yours", "no place in the queue")
    jobs.state = "running"
    share = "return document.querySelector('[data-color=red]').style.getPropertyValue('--share')"
    page.wait(lambda: page.chrome.execute_script(share) == "40%", "no progress")
    jobs.done = 10
    page.wait(lambda: page.find("#stage-text").text == "Turning it into pictures", "it stands at the end")
    assert page.find("#progress").get_attribute("value") in (None, "0")  # moves, and promises nothing
    jobs.state = "completed"
    engine.wait_for(1).finish()
    page.wait_view("done")
    assert page.ready() == list(COLORS)
    assert len(recorder.bodies) == 1  # the other six came by /jobs


@pytest.mark.parametrize("width", [320, 360, 390])
def test_on_a_phone_nothing_is_wider_than_the_screen(
    serve: Serve, visit: Visit, engine: FakeEngine, width: int
) -> None:
    page = visit(serve(engine)).phone(width)
    for view in ("empty", "edit", "done"):
        if view != "empty":
            page.drop().wait_view("edit") if view == "edit" else page.click("#relight").wait_view("done")
        assert page.view == view
        assert page.chrome.execute_script("return document.scrollingElement.scrollWidth") <= width, view
        assert (
            page.find(".brand").size["height"] <= 34 and page.find("#language").size["height"] <= 44
        )  # a line


def test_at_night_it_is_dark(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine))
    colors = []
    for scheme in ("light", "dark"):
        page.chrome.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        colors.append(page.find("body").value_of_css_property("background-color"))
    assert colors == ["rgba(246, 243, 237, 1)", "rgba(20, 18, 16, 1)"]
