"""`GET` and `DELETE /jobs/<job_id>`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, g

from lumiply.colors import COLORS
from lumiply.errors import UnknownJobError
from lumiply.server.names import PHOTO_NAME, output_name, require_job_id
from lumiply.server.order import Order
from lumiply.server.record import Failure, JobRecord, now_iso
from lumiply.server.render import Ticket
from lumiply.server.site import Site, current_site, guard
from lumiply.server.store import interrupted

jobs = Blueprint("jobs", __name__)
jobs.before_request(guard)

#: What a whole job is called: the first of these that any of its colours is.
_PRECEDENCE = ("running", "queued", "failed", "cancelled", "completed")


@jobs.get("/jobs/<job_id>")
def get_job(job_id: str) -> dict[str, Any]:
    """Say how far a job is."""
    g.job_id = require_job_id(job_id)
    return describe(current_site(), job_id)


@jobs.delete("/jobs/<job_id>")
def delete_job(job_id: str) -> dict[str, Any]:
    """End what has not finished, remove the files, and say how the job stood."""
    site = current_site()
    g.job_id = require_job_id(job_id)
    answer = describe(site, job_id)
    site.jobs.delete(job_id)
    for color in answer["colors"].values():
        color["image_url"] = None
        if color["state"] in ("queued", "running"):
            color["state"] = "cancelled"
    answer["state"], answer["queue_place"] = _overall(answer["colors"]), 0
    return answer


def describe(site: Site, job_id: str) -> dict[str, Any]:
    """A job as JSON.

    Raises:
        UnknownJobError: there is no trace of it.
    """
    early = site.jobs.early(job_id)  # first: what is no longer here has its tickets by the next line
    tickets = site.jobs.activity(job_id)
    record = site.store.record(job_id)
    if record is None:
        if not tickets and not early:
            raise UnknownJobError
        came = early[0].came if early else now_iso()
        record = JobRecord("", came, came)
    if early and not tickets:
        return _describe_early(site, job_id, record, [waiting.order for waiting in early])
    asked = record.asked if record.pending or record.failures else None
    recipe = tickets[0].render.recipe if tickets else asked or record.recipe or record.asked
    steps = recipe.steps if recipe else 0
    elsewhere = not tickets and site.store.runs_elsewhere(record)
    colors: dict[str, dict[str, Any]] = {}
    for color in COLORS:
        ticket = next((ticket for ticket in tickets if color in ticket.colors), None)
        url = None
        if recipe == record.recipe and output_name(color) in record.files:
            url = site.result_url(job_id, output_name(color))
        found = _color(color, url, ticket, record, steps)
        if elsewhere and found is not None and url is None and color in record.pending:
            found = _entry("running", 0, steps)  # how far, only that server knows
        if found is not None:
            colors[color] = found
    return _job(site, job_id, record, colors)


def _describe_early(site: Site, job_id: str, record: JobRecord, orders: Sequence[Order]) -> dict[str, Any]:
    """A job that waits for the first engine: what was asked for is queued, what stands there already is completed.

    Which other colours will be rendered beside those, and, where nothing says so, in how many steps, the engine
    will tell.
    """
    last = orders[-1]  # to it the job belongs
    kept = record.recipe if record.recipe and last.may_mean(record.recipe, site.settings) else None
    steps = last.steps_asked(site.settings) or 0
    colors: dict[str, dict[str, Any]] = {}
    for color in COLORS:
        if kept is not None and output_name(color) in record.files:
            url = site.result_url(job_id, output_name(color))
            colors[color] = _entry("completed", kept.steps, kept.steps, url)
        elif any(color in order.colors for order in orders if order.is_like(last)):
            colors[color] = _entry("queued", 0, steps)
    return _job(site, job_id, record, colors)


def _job(site: Site, job_id: str, record: JobRecord, colors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "state": _overall(colors),
        "queue_place": site.jobs.place(job_id),
        "created": record.created,
        "colors": colors,
        "input_image_url": site.result_url(job_id, PHOTO_NAME),
    }


def _color(
    color: str, url: str | None, ticket: Ticket | None, record: JobRecord, steps: int
) -> dict[str, Any] | None:
    """One colour as JSON; None if it was never asked for."""
    if url is not None:
        return _entry("completed", steps, steps, url)
    if ticket is not None:
        render = ticket.render
        state = "queued" if render.state == "queued" else "running"
        return _entry(state, render.steps_done, render.steps)
    why = record.failures.get(color) or (interrupted() if color in record.pending else None)
    if why is None:
        return None
    return _entry("cancelled" if why.code == "cancelled" else "failed", 0, steps, None, why)


def _entry(
    state: str, done: int, steps: int, url: str | None = None, why: Failure | None = None
) -> dict[str, Any]:
    error = {"code": why.code, "error": why.error} if why else None
    return {"state": state, "steps_done": done, "steps": steps, "image_url": url, "error": error}


def _overall(colors: dict[str, dict[str, Any]]) -> str:
    states = {color["state"] for color in colors.values()}
    return next((state for state in _PRECEDENCE if state in states), "completed")
