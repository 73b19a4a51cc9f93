"""What the browser keeps: nothing is lost to failures, to a second tab, or to a broken record."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("selenium")

from lumiply.colors import COLORS
from lumiply.server import FlaskServerThread
from tests.browser.between import Guard, Unreachable
from tests.browser.visitor import Visitor
from tests.fakes import FakeEngine

Serve = Callable[..., FlaskServerThread]
Visit = Callable[..., Visitor]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

#: Answers with the kept records; CHANGE sees them as `all`, and keeps another by `put`.
_STORE = """
const [answer] = arguments;
const opening = indexedDB.open("lumiply");
opening.onsuccess = () => {
  const transaction = opening.result.transaction("rooms", "readwrite");
  const store = transaction.objectStore("rooms");
  const reading = store.getAll();
  const put = (room) => store.put(room);
  reading.onsuccess = () => {
    const all = reading.result;
    CHANGE
  };
  transaction.oncomplete = () => {
    opening.result.close();
    answer(reading.result.map(({id, upload, results}) => [id, upload === null, Object.keys(results).length]));
  };
};
"""


def kept(page: Visitor, change: str = "") -> list[Any]:
    """The records as [id, whether finished, how many colours], as they were before a script changed them."""
    records: list[Any] = page.chrome.execute_async_script(_STORE.replace("CHANGE", change))
    return records


def test_a_broken_record_is_dropped_and_the_others_are_there(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).relight()
    kept(page, "put({...all[0], id: '', thumb: null, before: null}); put({...all[0], id: 'b', thumb: null})")
    assert len(kept(page)) == 3
    page.reload().wait_view("done")
    assert len(page.all("#rooms li")) == 1
    assert [finished for _, finished, _ in kept(page)] == [True]


def test_renders_that_fail_one_after_another_leave_one_entry_beside_the_finished_room(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).relight().click("#change").wait_view("edit")
    page.click("[data-lamp=table]")  # another picture than the one that the server has
    engine.error = RuntimeError("broken")
    for _ in range(3):
        count = len(engine.renders)
        page.click("#relight").wait(lambda count=count: len(engine.renders) > count, "nothing was sent")
        page.wait_view("edit").notice()
    assert sorted(colors for _, _, colors in kept(page)) == [0, 7]
    engine.error = None
    page.click("#relight").wait_view("done")
    page.wait(lambda: [colors for _, _, colors in kept(page)] == [7, 7], "not two finished rooms")


def test_a_full_history_makes_room_with_what_came_to_nothing(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).relight()
    more = "for (let i = 1; i < 12; i++) put({...all[0], id: `failed-${i}`, made: all[0].made + i, results: {}});"
    [[first, *_]] = kept(page, more)
    page.reload().wait_view("done").click("[data-in=done] [data-do=other]").wait_view("empty").relight()
    assert len(page.all("#rooms li")) == 12
    page.wait(lambda: sum(colors == 7 for _, _, colors in kept(page)) == 2, "a finished room is lost")
    found = [id for id, _, _ in kept(page)]
    assert first in found and "failed-1" not in found and len(found) == 12


def test_a_token_that_is_not_given_leaves_no_entry(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    page = visit(serve(engine, Guard("sesame").around)).drop().wait_view("edit").click("#relight")
    page.wait(page.find("#token-dialog").is_displayed, "no question for a token")
    page.click("#token-cancel").wait_view("edit")
    assert page.all("#rooms li") == []
    page.wait(lambda: kept(page) == [], "kept nevertheless")


@contextlib.contextmanager
def second_tab(page: Visitor) -> Iterator[str]:
    """Another tab, in front; what it is called."""
    first = page.chrome.current_window_handle
    page.chrome.switch_to.new_window("tab")
    second = page.chrome.current_window_handle
    try:
        yield second
    finally:
        page.chrome.switch_to.window(second)
        page.chrome.close()
        page.chrome.switch_to.window(first)


def test_a_tab_that_knows_a_room_unfinished_opens_it_finished(serve: Serve, visit: Visit) -> None:
    engine, gate = FakeEngine(manual=True), Unreachable()
    server = serve(engine, gate.around)
    page = visit(server).drop().wait_view("edit").click("#relight").wait_view("busy")
    first, render = page.chrome.current_window_handle, engine.wait_for(1)
    with second_tab(page) as second:
        page.open(server.url)
        assert "not finished" in page.find("#rooms li").text
        page.chrome.switch_to.window(first)
        render.finish()
        page.wait_view("done").wait(lambda: kept(page)[0][1:] == [True, 7], "not kept")
        gate.closed = True  # nothing can be asked for again
        page.chrome.switch_to.window(second)
        page.click("#rooms .thumb").wait_view("done")
        assert page.ready() == list(COLORS)
        assert "not finished" not in page.find("#rooms li").text
        gate.closed = False
    assert page.reload().wait_view("done").ready() == list(COLORS)


def test_what_one_tab_knows_of_a_room_takes_nothing_from_what_another_kept(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine)).relight()
    page.chrome.execute_async_script("""
        const answer = arguments[0];
        const {History} = await import("/page/history.js");
        const tab = new History();
        await tab.load();
        const [room] = tab.rooms;
        await tab.put({...room, upload: room.before, results: {red: room.before}, by: null});
        answer();
    """)
    assert [record[1:] for record in kept(page)] == [[True, 7]]
    page.reload().wait_view("done")
    assert page.ready() == list(COLORS)
    assert page.find("#made-by").is_displayed()
