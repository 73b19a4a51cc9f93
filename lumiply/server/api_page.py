"""`/docs`: the HTTP interface as a page to read, from the same document as `/openapi.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from flask import Blueprint, render_template
from markupsafe import Markup, escape

from lumiply.server.openapi import current_document
from lumiply.server.site import current_site

api_page = Blueprint("api_page", __name__)

_JSON: Final = "application/json"


@api_page.app_template_filter("code")
def code(text: str) -> Markup:
    """`words` between backticks as code, everything escaped."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


@api_page.get("/docs")
def get_page() -> str:
    """The page."""
    api = current_document()
    shapes = {
        operation["operationId"]: shape
        for item in api["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict) and (shape := answer_shape(operation, api["components"]["schemas"]))
    }
    return render_template("api.html", api=api, shapes=shapes, has_page=current_site().settings.page != "off")


def answer_shape(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str | None:
    """What the answer 200 of an operation looks like, as JSON; None if it is no JSON."""
    content = operation["responses"].get("200", {}).get("content", {})
    if _JSON not in content:
        return None
    return json.dumps(shape_of(content[_JSON]["schema"], schemas), indent=2, ensure_ascii=False)


def shape_of(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    """A value of a schema that shows what it may be: all choices of a word, one entry of a table."""
    if "$ref" in schema:
        return shape_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return " | ".join(schema["enum"])
    if "anyOf" in schema:
        return shape_of(schema["anyOf"][0], schemas)
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    if kind == "object" and "properties" in schema:
        return {name: shape_of(each, schemas) for name, each in schema["properties"].items()}
    if kind == "object":
        name = schema.get("propertyNames", {}).get("enum", ["..."])[0]
        return {name: shape_of(schema["additionalProperties"], schemas)}
    if kind == "array":
        return [shape_of(schema["items"], schemas)]
    if kind == "integer":
        return 0
    words = {"uri": "an address", "date-time": "2026-01-31T12:00:00+00:00"}
    return schema.get("example", words.get(schema.get("format", ""), "..."))
