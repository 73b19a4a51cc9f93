"""What the browser keeps: nothing is lost to failures, to a second tab, or to a broken record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("selenium")

from lumiply.server import FlaskServerThread
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
