"""`/openapi.json`: the HTTP interface for programs. `lumiply.server.api_page` shows the same to people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from flask import Blueprint, Response, jsonify, request

from lumiply.colors import COLORS
from lumiply.engine.protocol import LARGEST_SEED, MOST_STEPS
from lumiply.server.auth import SIGNATURE_QUERY, TOKEN_QUERY
from lumiply.server.names import JOB_ID_PATTERN, PUBLIC_NAMES
from lumiply.server.site import RESULTS_PATH, current_site
from lumiply.settings import Settings
from lumiply.version import __version__

openapi = Blueprint("openapi", __name__)

_ERRORS: Final = {
    400: "A part is missing or cannot be used; `code` says which.",
    401: "No token, or a wrong one.",
    403: "The address is not signed as it must be.",
    404: "There is no such job or file.",
    405: "The address knows no such method.",
    408: "The upload did not arrive in time.",
    409: "The job was deleted, or another photo took it over.",
    413: "The upload has too many bytes or pixels.",
    416: "The file has no such range.",
    500: "The render failed, twice.",
    503: "Not now: busy, loading or closing, or no way to the results. `Retry-After` says when to try again.",
    504: "Not done in time; the render was ended.",
    507: "No space for the results.",
}

_JOB_ID: Final = {"type": "string", "pattern": f"^{JOB_ID_PATTERN}$", "example": "demo"}
_COLOR: Final = {"type": "string", "enum": list(COLORS)}
_STATE: Final = {"type": "string", "enum": ["queued", "running", "completed", "failed", "cancelled"]}
_URL: Final = {"type": "string", "format": "uri"}


@openapi.get("/openapi.json")
def get_document() -> Response:
    """The document."""
    return jsonify(current_document())


def current_document() -> dict[str, Any]:
    """The document of the server that answers the current request."""
    site = current_site()
    base = site.public_url or request.host_url.rstrip("/")
    return document(site.settings, base, guarded=site.token is not None)


def document(settings: Settings, base: str, *, guarded: bool = True) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server with these settings at the address `base`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lumiply",
            "version": __version__,
            "description": "Turns the lamp on in a photo of a room, in seven colours.",
            "license": {"name": "CC BY-NC-SA 4.0", "identifier": "CC-BY-NC-SA-4.0"},
        },
        "servers": [{"url": base}],
        "paths": {
            "/process": {"post": _process(settings, guarded)},
            "/jobs/{job_id}": {
                "parameters": [_path("job_id", _JOB_ID, "Name of the job.")],
                "get": _operation(
                    "getJob", "How far a job is.", {200: ("The job.", "Job")}, (400, 401, 404, 503), guarded
                ),
                "delete": _operation(
                    "deleteJob",
                    "End what has not finished of a job, and remove its files.",
                    {200: ("The job as it stood.", "Job")},
                    (400, 401, 404, 503),
                    guarded,
                ),
            },
            f"{RESULTS_PATH}/{{job_id}}/{{name}}": {"get": _result(settings)},
            "/health": {
                "get": _operation("health", "Whether the process serves.", {200: ("It does.", "Health")}, ())
            },
            "/ready": {
                "get": _operation(
                    "ready", "Whether a render can be had now.", {200: ("It can.", "Readiness")}, (503,)
                )
            },
            "/metrics": {
                "get": _operation(
                    "metrics", "Figures for Prometheus.", {200: ("Figures.", "text/plain")}, (401,), guarded
                )
            },
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "query": {"type": "apiKey", "in": "query", "name": TOKEN_QUERY},
            },
        },
    }


def _process(settings: Settings, guarded: bool) -> dict[str, Any]:
    operation = _operation(
        "process",
        "Relight one photo. Asked for one `color`, the server renders all and answers with the one; named in"
        " `colors`, only those are rendered, and all of them answered. The same photo and settings again are"
        " answered from what is stored. Answers when the pictures are there; `GET /jobs/{job_id}` tells progress.",
        {200: ("The pictures are there.", "Answer")},
        (400, 401, 408, 409, 413, 500, 503, 504, 507),
        guarded,
    )
    properties = {
        "image": {
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "format": "binary",
            "description": f"The photo: PNG, JPEG or WebP, at most {settings.max_upload_mb:g} MB and"
            f" {settings.max_megapixels:g} megapixels.",
        },
        "job_id": {
            **_JOB_ID,
            "description": "Name of the job; one photo each. Another photo replaces the first.",
        },
        "color": {**_COLOR, "description": "One colour; may be left out where `colors` is given."},
        "colors": {
            "type": "string",
            "example": "red,blue",
            "description": "Several colours, divided by commas; or the part several times. Only these are rendered.",
        },
        "seed": {
            "type": "integer",
            "minimum": 0,
            "maximum": LARGEST_SEED,
            "description": f"Seed of the noise; one seed, one result. By default {settings.seed}.",
        },
        "steps": {
            "type": "integer",
            "minimum": 1,
            "maximum": MOST_STEPS,
            "description": f"Denoising steps, 1 to {MOST_STEPS}; by default the preset's, or the model's own.",
        },
        "preset": {
            "type": "string",
            "description": "Sampler and steps by name: one of the model's presets, which `/health` lists.",
        },
        "callback_url": {
            "type": "string",
            "description": "Where to post the answer to as well; its host must be on the server's list.",
        },
    }
    schema = {
        "type": "object",
        "required": ["image", "job_id"],
        "anyOf": [{"required": ["color"]}, {"required": ["colors"]}],
        "properties": properties,
    }
    operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return operation


def _result(settings: Settings) -> dict[str, Any]:
    operation = _operation(
        "result",
        "A picture, whole or in ranges. A repeated request with `If-None-Match` costs no bytes.",
        {200: ("The file.", "image"), 206: ("A part.", "image"), 304: ("The client has it.", "")},
        (403, 404, 416, 503) if settings.sign_urls else (404, 416, 503),
    )
    operation["parameters"] = [
        _path("job_id", _JOB_ID, "Name of the job."),
        _path("name", {"type": "string", "enum": sorted(PUBLIC_NAMES)}, "Name of the file."),
    ]
    if settings.sign_urls:
        operation["parameters"].append({
            "name": SIGNATURE_QUERY, "in": "query", "required": True, "schema": {"type": "string"},
            "description": "As the server wrote it into the address.",
        })  # fmt: skip
    return operation


def _operation(
    name: str,
    summary: str,
    answers: dict[int, tuple[str, str]],
    errors: Iterable[int],
    guarded: bool = False,
) -> dict[str, Any]:
    """An operation; `answers` are (description, schema or kind of content) by status."""
    responses = {str(status): _answer(*answer) for status, answer in answers.items()}
    responses |= {str(status): _answer(_ERRORS[status], "Error") for status in errors}
    for status in responses.keys() & {"503"}:
        responses[status]["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}
        }
    head, _, rest = summary.partition(". ")
    operation: dict[str, Any] = {"operationId": name, "summary": head.rstrip("."), "responses": responses}
    if rest:
        operation["description"] = rest
    if guarded:
        operation["security"] = [{"bearer": []}, {"key": []}, {"query": []}]
    return operation


def _answer(description: str, kind: str) -> dict[str, Any]:
    if not kind:
        return {"description": description}
    if kind == "image":
        binary = {"schema": {"type": "string", "format": "binary"}}
        return {"description": description, "content": {"image/png": binary, "image/jpeg": binary}}
    if "/" in kind:
        return {"description": description, "content": {kind: {"schema": {"type": "string"}}}}
    schema = {"schema": {"$ref": f"#/components/schemas/{kind}"}}
    return {"description": description, "content": {"application/json": schema}}


def _path(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


def _object(properties: dict[str, Any], optional: Iterable[str] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in set(optional)]
    return {"type": "object", "required": required, "properties": properties}


def _schemas() -> dict[str, Any]:
    count = {"type": "integer", "minimum": 0}
    text = {"type": "string"}
    error = _object({"code": text, "error": text})
    color = _object(
        {
            "state": _STATE,
            "steps_done": count,
            "steps": {**count, "description": "0: the model, which still loads, will say."},
            "image_url": {"type": ["string", "null"], "format": "uri"},
            "error": {"anyOf": [error, {"type": "null"}]},
        }
    )
    return {
        "Error": _object(
            {
                "success": {"const": False},
                "error": text,
                "code": text,
                "figures": {
                    "type": "object",
                    "additionalProperties": text,
                    "description": "The value and the limit that the sentence names, where it names any.",
                },
            },
            optional=["figures"],
        ),
        "Answer": _object(
            {
                "job_id": _JOB_ID,
                "status": {"const": "completed"},
                "result": _object(
                    {
                        "images": {"type": "object", "propertyNames": _COLOR, "additionalProperties": _URL},
                        "input_image_url": _URL,
                    }
                ),
                "message": text,
            }
        ),
        "Job": _object(
            {
                "job_id": _JOB_ID,
                "state": _STATE,
                "queue_place": {
                    **count,
                    "description": "1 is next; 0 is running or ended. While the model loads: in order of coming.",
                },
                "created": {"type": "string", "format": "date-time"},
                "colors": {"type": "object", "propertyNames": _COLOR, "additionalProperties": color},
                "input_image_url": _URL,
            }
        ),
        "Health": _object(
            {
                "status": {"const": "healthy"},
                "message": text,
                "timestamp": {"type": "string", "format": "date-time"},
                "engine": {"type": "string", "enum": ["loading", "ready", "failed"]},
                "model": text,
                "weights": text,
                "device": text,
                "precision": text,
                "image_size": count,
                "steps": count,
                "colors": {"type": "array", "items": _COLOR},
                "presets": {"type": "array", "items": text},
                "queue": _object({"length": count, "limit": count}),
            },
            optional=(
                "model",
                "weights",
                "device",
                "precision",
                "image_size",
                "steps",
                "colors",
                "presets",
                "queue",
            ),
        ),
        "Readiness": _object({"ready": {"const": True}, "engine": text, "queue": count}),
    }
