"""`GET /health`, `/ready` and `/metrics`: is it alive, can it work, how much does it do."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Final

from flask import Blueprint, Response

from lumiply.server.answers import RETRY_AFTER_S
from lumiply.server.metrics import CONTENT_TYPE
from lumiply.server.site import Site, current_site

status = Blueprint("status", __name__)

#: Answered ahead of all else: what watches a server asks for them, and takes one that is late for dead.
AT_ONCE: Final = frozenset({"/health", "/ready"})


@status.get("/health")
def health() -> dict[str, Any]:
    """Say that the process serves, and what it serves with."""
    site = current_site()
    answer: dict[str, Any] = {
        "status": "healthy",
        "message": "Colab 서버가 실행 중입니다.",
        "timestamp": datetime.now(timezone.utc).isoformat(),
        "engine": site.engine.state,
    }
    engine = site.engine.engine
    if engine is not None:
        info = engine.info
        answer |= {
            "model": info.model,
            "weights": info.weights,
            "device": info.device,
            "precision": info.precision,
            "image_size": info.image_size,
            "steps": info.steps,
            "colors": list(info.colors),
            "presets": list(info.presets),
            "queue": {"length": site.queue.length, "limit": site.settings.queue_size},
        }
    return answer


@status.get("/ready")
def ready() -> tuple[dict[str, Any], int, dict[str, str]]:
    """Say whether a render can be had now; 503 with the reason if not."""
    site = current_site()
    code, sentence = _obstacle(site)
    answer = {"ready": not code, "engine": site.engine.state, "queue": site.queue.length}
    if not code:
        return answer, 200, {}
    refusal = {"success": False, "error": sentence, "code": code, **answer}
    return refusal, 503, {"Retry-After": str(RETRY_AFTER_S)}


def _obstacle(site: Site) -> tuple[str, str]:
    """(code, sentence) of what keeps the server from rendering; empty if nothing does."""
    slot = site.engine
    if site.queue.is_draining:
        return "unavailable", "서버가 종료되고 있습니다."
    if slot.state == "failed":
        return "failed", "모델을 불러오지 못했습니다. 서버를 운영하는 분께 로그 확인을 부탁해 주세요."
    if slot.state == "loading" and slot.reason:
        return "restarting", "렌더링이 멈추어 엔진을 다시 시작하는 중입니다."
    if slot.state == "loading":
        return "loading", "모델을 불러오는 중입니다."
    if site.queue.is_stuck:
        return "stuck", "렌더링이 진행되지 않고 있습니다."
    return "", ""


@status.get("/metrics")
def metrics() -> Response:
    """All figures, for Prometheus."""
    site = current_site()
    site.authorize()
    return Response(site.metrics.text(), content_type=CONTENT_TYPE)
