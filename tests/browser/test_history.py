"""What the browser keeps: nothing is lost to failures, to a second tab, or to a broken record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("selenium")

from lumiply.server import FlaskServerThread
from tests.browser.between import Guard
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
