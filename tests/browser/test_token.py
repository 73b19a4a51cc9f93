"""Tokens as they come out of chats and letters."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest

pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys

from lumiply.server import FlaskServerThread
from tests.browser.between import Guard
from tests.browser.visitor import Visitor
from tests.fakes import FakeEngine

Serve = Callable[..., FlaskServerThread]
Visit = Callable[..., Visitor]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

#: A space without width, a mark of the reading direction, a space that does not break.
COPIED = "\u200bsesame\u200e\u00a0"


def test_a_token_is_taken_without_the_invisible_marks_around_it(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine, Guard("sesame").around)).drop().wait_view("edit").click("#relight")
    page.wait(page.find("#token-dialog").is_displayed, "no question for a token")
    page.press(page.find("#token"), COPIED, Keys.ENTER).wait_view("done")


def test_so_is_one_in_the_address(serve: Serve, visit: Visit, engine: FakeEngine) -> None:
    visit(serve(engine, Guard("sesame").around), f"?token={quote(COPIED)}").relight()


def test_after_a_token_of_letters_that_no_token_has_the_question_comes_again(
    serve: Serve, visit: Visit, engine: FakeEngine
) -> None:
    page = visit(serve(engine, Guard("sesame").around)).drop().wait_view("edit").click("#relight")
    page.wait(page.find("#token-dialog").is_displayed, "no question for a token")
    page.press(page.find("#token"), "참깨", Keys.ENTER)
    page.wait(lambda: page.find("#token-wrong").is_displayed(), "a wrong token is not called one")
    page.press(page.find("#token"), "sesame", Keys.ENTER).wait_view("done")
