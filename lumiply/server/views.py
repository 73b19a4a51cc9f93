"""`POST /process` and `GET /health`: parse, check, delegate, answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from flask import Blueprint, request
from werkzeug.exceptions import RequestTimeout

from lumiply.colors import require_color
from lumiply.errors import MissingFieldError
from lumiply.server.site import Site, current_site
from lumiply.server.store import PHOTO_NAME, output_name, require_job_id

process = Blueprint("process", __name__)
health = Blueprint("health", __name__)


@dataclass(frozen=True)
class ProcessRequest:
    """The form of `POST /process`, checked.

    Attributes:
        upload: bytes of the photo's file, not yet decoded.
        callback_url: empty for none.
    """

    upload: bytes
    job_id: str
    color: str
    callback_url: str

    @classmethod
    def parse(cls, site: Site) -> ProcessRequest:
        """Read it from the current request, checking in the order of the contract.

        Raises:
            UserError: a part is missing or cannot be used.
        """
        try:
            form, image = request.form, request.files.get("image")
        except TimeoutError as exc:  # the client stopped sending
            raise RequestTimeout from exc
        upload = image.read() if image is not None else b""
        if not upload:
            raise MissingFieldError("image")
        job_id, color = form.get("job_id", ""), form.get("color", "")
        if not job_id:
            raise MissingFieldError("job_id")
        if not color:
            raise MissingFieldError("color")
        require_color(color)
        require_job_id(job_id)
        callback_url = form.get("callback_url", "").strip()
        if callback_url:
            site.callbacks.check(callback_url)
        return cls(upload, job_id, color, callback_url)


@process.post("/process")
def post_process() -> dict[str, Any]:
    """Relight one photo; the colour asked comes with the other six rendered beside it."""
    site = current_site()
    asked = ProcessRequest.parse(site)
    site.jobs.ensure(asked.job_id, asked.upload, asked.color, site.settings.request_timeout_s)
    answer = {
        "job_id": asked.job_id,
        "status": "completed",
        "result": {
            "images": {asked.color: site.result_url(asked.job_id, output_name(asked.color))},
            "input_image_url": site.result_url(asked.job_id, PHOTO_NAME),
        },
        "message": "색상 이미지 생성 완료",
    }
    if asked.callback_url:
        site.callbacks.deliver(asked.callback_url, answer)
    return answer


@health.get("/health")
def get_health() -> dict[str, Any]:
    """Say that the process serves, and what it serves with."""
    site = current_site()
    answer: dict[str, Any] = {
        "status": "healthy",
        "message": "Colab 서버가 실행 중입니다.",
        "timestamp": datetime.now(timezone.utc).isoformat(),
        "engine": site.engine.state,
    }
    if site.engine.state == "ready":
        engine = site.engine.get()
        info = engine.info
        answer |= {
            "model": info.model,
            "weights": info.weights,
            "device": info.device,
            "precision": info.precision,
            "image_size": info.image_size,
            "steps": info.steps,
            "queue": {"length": engine.queue_length, "limit": site.settings.queue_size},
        }
    return answer
