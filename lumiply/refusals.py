"""What the server's refusals mean, in English: its own sentences are Korean, as the product that shows them is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from lumiply.colors import COLORS

#: By code. What stands in square brackets is left out where a figure for it is not known.
_SENTENCES: Final = {
    "missing_image": "the form has no image",
    "missing_job_id": "the form has no job_id",
    "missing_color": "the form has neither color nor colors",
    "unknown_color": f"unknown colour[ {{color}}]. Choose from {', '.join(COLORS)}",
    "invalid_job_id": "a job_id is at most 128 letters, digits, '-', '_' and '.', and begins with a letter or digit",
    "invalid_image": "no readable picture[ ({bytes} bytes arrived)]. Send a PNG, JPEG or WebP file",
    "invalid_seed": "the seed must be a whole number[ from {low} to {high}][, got {given}]",
    "invalid_steps": "steps must be a whole number[ from {low} to {high}][, got {given}]",
    "invalid_preset": "the server has no preset[ {given}][. Choose from {known}]",
    "callback_refused": "the host of callback_url is not among LUMIPLY_CALLBACK_HOSTS of the server",
    "bad_request": "the server does not understand the request",
    "unauthorized": "the token is missing or wrong",
    "bad_signature": "the address is not signed as the server gave it",
    "unknown_job": "the server has no such job",
    "not_found": "the server has no such address",
    "method_not_allowed": "the address knows no such method",
    "request_timeout": "the upload did not arrive in time. Send it again",
    "cancelled": "the render was cancelled",
    "replaced": "another request came in under the same job_id",
    "image_too_large": "the picture is too large[: {megapixels} megapixels][: {width} x {height}]"
    "[, at most {limit} megapixels][, at most {side_limit} on a side]. Send a smaller one",
    "form_too_large": "the form is too large[, at most {limit} MB in a field that is no file]"
    "[, at most {parts} fields]. Send the photo as a file, with a filename",
    "upload_too_large": "the file is too large[, at most {limit} MB]. Send a smaller one",
    "range_not_satisfiable": "the file has no such range",
    "render_failed": "the render failed. Try again, or send a smaller picture",
    "out_of_memory": "the server ran out of memory. Ask for fewer colours, or send a smaller picture",
    "stuck": "the render got stuck and was ended. Try again",
    "internal_error": "the server met an error of its own; its log says which",
    "busy": "too many requests are waiting. Try again soon",
    "loading": "the model is still loading. Try again soon",
    "unavailable": "the server cannot render now; its log says why",
    "storage_unavailable": "the server cannot reach the place where it keeps results. Try again soon",
    "timeout": "the render did not end[ within {seconds} s] and was given up",
    "storage_full": "the server's disk is full[: {needed} MB are needed and {free} MB left]",
}


def in_english(code: str, figures: Mapping[str, str]) -> str | None:
    """A clause for a refusal, with those of its figures that are known; None if the code means nothing here."""
    sentence = _SENTENCES.get(code)
    if sentence is None:
        return None

    def part(found: re.Match[str]) -> str:
        known = all(figures.get(name) for name in re.findall(r"{(\w+)}", found[1]))
        return found[1] if known else ""

    return re.sub(r"\[([^\]]*)\]", part, sentence).format_map(figures)
