"""`/openapi.json`, and that the server does what the document says, whatever it is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck
from schemathesis.specs.openapi.checks import positive_data_acceptance

from lumiply.errors import LumiplyError, RenderError
from lumiply.server.openapi import document
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import FakeEngine

OPERATIONS = ["process", "getJob", "deleteJob", "result", "health", "ready", "metrics"]


def operations(found: dict) -> dict[str, dict]:
    return {
        operation["operationId"]: operation
        for item in found["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    }


def test_the_document_is_served_and_names_every_address(app: Flask) -> None:
    answer = app.test_client().get("/openapi.json")
    assert answer.status_code == 200
    assert answer.json == document(Settings(), "http://localhost", guarded=False)
    assert list(operations(answer.json)) == OPERATIONS
    written = {path.replace("{", "<").replace("}", ">") for path in answer.json["paths"]}
    ours = {"process", "jobs", "results", "status"}
    assert written == {
        rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.partition(".")[0] in ours
    }


def test_every_status_of_our_errors_is_in_the_document() -> None:
    def all_of(kind: type[LumiplyError]) -> set[int]:
        return {kind.status}.union(*(all_of(sub) for sub in kind.__subclasses__()))

    described = {
        int(status)
        for op in operations(document(Settings(sign_urls=True), "")).values()
        for status in op["responses"]
    }
    assert all_of(LumiplyError) <= described


@pytest.mark.parametrize("operation_id", ["process", "getJob", "deleteJob", "result"])
def test_whatever_needs_the_results_may_not_reach_them(operation_id: str) -> None:
    assert "503" in operations(document(Settings(), ""))[operation_id]["responses"]


def test_the_token_is_asked_for_where_there_is_one(
    make_app: Callable[..., Flask], settings: Settings
) -> None:
    app = make_app(FakeEngine(), settings.replace(token="sixteen-or-more-letters"))
    found = operations(app.test_client().get("/openapi.json").json)
    assert {name for name, operation in found.items() if "security" in operation} == {
        "process", "getJob", "deleteJob", "metrics",
    }  # fmt: skip


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_the_server_does_as_the_document_says(app: Flask, tmp_path: Path, operation_id: str) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    operation = next(
        found.ok()
        for found in schema.get_all_operations()
        if found.ok().definition.raw["operationId"] == operation_id
    )
    quick = hypothesis.settings(
        max_examples=15,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )

    @quick
    @hypothesis.given(case=operation.as_strategy())
    def check(case: schemathesis.Case) -> None:
        # What makes an image a good one, or a preset a known one, no schema can say.
        case.call_and_validate(
            excluded_checks=[positive_data_acceptance] if operation_id == "process" else []
        )

    check()
    assert {path.name for path in tmp_path.iterdir()} <= {"inference"}
    site_of(app).close(0)


def test_the_api_page_names_every_code_that_can_be_answered() -> None:
    def codes(kind: type[LumiplyError]) -> set[str]:
        own = {kind.code} if kind.status != 500 or issubclass(kind, RenderError) else set()
        return own.union(*(codes(sub) for sub in kind.__subclasses__()))

    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    assert [code for code in sorted(codes(LumiplyError)) if f"`{code}`" not in text] == []
