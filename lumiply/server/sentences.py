"""What people are told about an error: never the text of an exception that nobody foresaw."""

from __future__ import annotations

from typing import Final

from lumiply.errors import LumiplyError

INTERNAL: Final = "서버 내부 오류가 발생했습니다. 잠시 후 다시 시도해 주세요."

#: Sentences that stand in for an engine's own, which are written for whoever runs it.
_BY_CODE: Final = {
    "busy": "지금 처리 중인 요청이 많습니다. 잠시 후 다시 요청해 주세요.",
    "unavailable": "지금은 렌더링할 수 없습니다. 잠시 후 다시 요청해 주세요.",
    "render_failed": "렌더링에 실패했습니다. 다시 시도하거나 더 작은 사진으로 보내 주세요.",
    "out_of_memory": "메모리가 부족해 렌더링하지 못했습니다. 잠시 후 색상을 줄여 다시 요청해 주세요.",
    "storage_unavailable": "결과 저장소를 지금 쓸 수 없습니다. 잠시 후 다시 요청해 주세요.",
    "stuck": "렌더링이 멈추어 엔진을 다시 시작했습니다. 잠시 후 다시 요청해 주세요.",
}


def sentence_of(error: BaseException) -> str:
    """The sentence for whoever sent the request that ended in `error`."""
    if not isinstance(error, LumiplyError):
        return INTERNAL
    return _BY_CODE.get(error.code) or (INTERNAL if error.status == 500 else str(error))
