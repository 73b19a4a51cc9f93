"""Every error that Lumiply raises on purpose.

    LumiplyError                   code            HTTP status
    |-- UserError                  (bad input)     400
    |   |-- UnknownColorError      unknown_color   400
    |   |-- ImageError             invalid_image   400
    |   |-- ImageTooLargeError     image_too_large 413
    |   |-- FormTooLargeError      form_too_large  413
    |   |-- MissingFieldError      missing_<field> 400
    |   |-- InvalidJobIdError      invalid_job_id  400
    |   |-- InvalidFieldError      invalid_<field> 400
    |   |-- UnknownJobError        unknown_job     404
    |   `-- CallbackRefusedError   callback_refused 400
    |-- UnauthorizedError          unauthorized    401
    |-- BadSignatureError          bad_signature   403
    |-- SettingsError              a setting has an unknown name or a bad value
    |-- AddressError               the server cannot listen where it was told to
    |-- TunnelError                no public address could be opened
    |-- RemoteError                another Lumiply server answered with an error, or not at all
    |-- FetchError                 weights could not be downloaded
    |-- WeightsError               a weights file is missing, damaged, or not what its place needs
    |-- ConfigError                a model configuration has an unknown target or key
    |-- BusyError                  busy            503
    |-- LoadingError               loading         503
    |-- EngineClosedError          unavailable     503
    |-- RenderTimeoutError         timeout         504
    |-- StorageFullError           storage_full    507
    |-- StorageUnavailableError    storage_unavailable 503
    |-- RenderError                render_failed   500
    |   |-- DeviceMemoryError      out_of_memory   500
    |   `-- StuckError             stuck           500
    |-- OutdatedError              a render was planned for other weights than the engine has now
    `-- CancelledError             cancelled       409
        `-- ReplacedError          replaced        409

`code` is a stable identifier for programs, `str(error)` a sentence for a person: the value, the limit, the
next step. `figures` are the value and the limit alone, for those who say it in another language.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final


class LumiplyError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        figures: what the sentence fills in, by name and as written there; not of every error.
    """

    code = "error"
    status = 500
    figures: Mapping[str, str] = MappingProxyType({})

    def __init__(self, *args: object, **figures: str) -> None:
        super().__init__(*args)
        if figures:
            self.figures = figures

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by what it holds: the arguments of a constructor are not kept, and its sentence is made."""
        return _revive, (type(self), self.args, self.__dict__)


def _revive(kind: type[LumiplyError], args: tuple[Any, ...], fields: dict[str, Any]) -> LumiplyError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class UserError(LumiplyError):
    """What the caller sent cannot be used; sending it again changed will help."""

    code = "bad_request"
    status = 400


class UnknownColorError(UserError):
    """A colour that is none of the seven.

    Args:
        sentence: in place of the one that is part of the HTTP contract.
    """

    code = "unknown_color"

    def __init__(self, color: str, sentence: str | None = None) -> None:
        super().__init__(sentence or f"지원하지 않는 색상입니다: {color}")
        self.color = color


class ImageError(UserError):
    """Bytes that do not decode to a picture."""

    code = "invalid_image"


class ImageTooLargeError(UserError):
    """A picture, or an upload, over the limit."""

    code = "image_too_large"
    status = 413


class FormTooLargeError(UserError):
    """A form with too many parts, or with too much in one that is no file.

    Args:
        megabytes: the most that a part may hold which is no file.
        parts: the most that there may be.
    """

    code = "form_too_large"
    status = 413

    def __init__(self, megabytes: float, parts: int) -> None:
        figures = {"limit": f"{megabytes:g}", "parts": str(parts)}
        super().__init__(
            "양식이 너무 큽니다 (파일이 아닌 필드는 {limit}MB까지, 필드는 {parts}개까지)."
            " 사진은 filename이 있는 파일로 보내 주세요.".format(**figures),
            **figures,
        )


class MissingFieldError(UserError):
    """A part of the form that is needed is not there. The texts are part of the HTTP contract."""

    TEXTS: Final = {
        "image": "이미지 파일이 없습니다.",
        "job_id": "job_id가 없습니다.",
        "color": "color 파라미터가 필요합니다.",
    }

    def __init__(self, field: str) -> None:
        super().__init__(self.TEXTS[field])
        self.code = f"missing_{field}"


class InvalidJobIdError(UserError):
    """A job id that is no plain name."""

    code = "invalid_job_id"

    def __init__(self) -> None:
        super().__init__(
            "job_id가 올바르지 않습니다. 영문자, 숫자, '-', '_', '.'만 써서 128자 이하로 보내 주세요"
            " (첫 글자는 영문자나 숫자)."
        )


class InvalidFieldError(UserError):
    """An optional part of the form that is there and cannot be meant."""

    def __init__(self, field: str, given: str, limit: str, **figures: str) -> None:
        super().__init__(
            f"{field} 값이 올바르지 않습니다: {given[:40]!r}. {limit}", given=given[:40], **figures
        )
        self.code = f"invalid_{field}"


class UnknownJobError(UserError):
    """A job of which there is no trace: never asked for, deleted, or past its keeping time."""

    code = "unknown_job"
    status = 404

    def __init__(self) -> None:
        super().__init__("그런 작업이 없습니다. job_id를 확인하거나 사진을 다시 보내 주세요.")


class UnauthorizedError(LumiplyError):
    """A request without the token, or with a wrong one."""

    code = "unauthorized"
    status = 401

    def __init__(self) -> None:
        super().__init__(
            "토큰이 없거나 올바르지 않습니다. Authorization: Bearer, X-API-Key 또는 ?token= 으로 보내 주세요."
        )


class BadSignatureError(LumiplyError):
    """A result's address whose signature is missing or wrong, where signatures are asked for."""

    code = "bad_signature"
    status = 403

    def __init__(self) -> None:
        super().__init__(
            "이 주소의 서명이 없거나 올바르지 않습니다. 서버가 알려 준 주소를 그대로 사용해 주세요."
        )


class CallbackRefusedError(UserError):
    """A callback address that is not on the allow-list."""

    code = "callback_refused"


class SettingsError(LumiplyError):
    """A setting with an unknown name or a value out of range."""

    code = "bad_settings"


class AddressError(LumiplyError):
    """The server cannot listen at an address: it is in use, forbidden, or not this machine's."""

    code = "address_unavailable"


class TunnelError(LumiplyError):
    """No public address could be opened."""

    code = "tunnel_failed"


class RemoteError(LumiplyError):
    """A Lumiply server that was called answered with an error, or not at all.

    Attributes:
        answered: HTTP status of the answer; None if there was none.
        server_code: the answer's own `code`; None if it had none.
        server_sentence: the answer's own sentence, as a rule in Korean; None if it had none.
        retry_after_s: seconds after which the server may be asked again; None if it did not say.
    """

    code = "remote_error"

    def __init__(
        self,
        text: str,
        answered: int | None = None,
        server_code: str | None = None,
        retry_after_s: float | None = None,
        server_sentence: str | None = None,
    ) -> None:
        super().__init__(text)
        self.answered = answered
        self.server_code = server_code
        self.retry_after_s = retry_after_s
        self.server_sentence = server_sentence


class FetchError(LumiplyError):
    """Weights that could not be downloaded; the sentence says what to click."""

    code = "fetch_failed"


class WeightsError(LumiplyError):
    """A weights file that is missing, damaged, or not what its place needs."""

    code = "bad_weights"


class ConfigError(LumiplyError):
    """A model configuration with an unknown target or key."""

    code = "bad_config"


class BusyError(LumiplyError):
    """The render queue is full; the same request later will do."""

    code = "busy"
    status = 503


class LoadingError(LumiplyError):
    """The model was still loading when a request's time was over; the same request later will do."""

    code = "loading"
    status = 503

    def __init__(self) -> None:
        super().__init__("모델을 불러오는 중입니다. 잠시 후 다시 요청해 주세요.")


class EngineClosedError(LumiplyError):
    """The engine is shutting down, or was never started."""

    code = "unavailable"
    status = 503


class RenderTimeoutError(LumiplyError):
    """A render took longer than the caller can wait. Unless others wait for it, it is ended."""

    code = "timeout"
    status = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"렌더링이 {seconds:g}초 안에 끝나지 않아 취소했습니다. 잠시 후 다시 요청해 주세요.",
            seconds=f"{seconds:g}",
        )


class RenderError(LumiplyError):
    """A render failed inside the model (out of memory, numbers that are not finite)."""

    code = "render_failed"


class DeviceMemoryError(RenderError):
    """The device ran out of memory; fewer colours at once may fit."""

    code = "out_of_memory"


class StuckError(RenderError):
    """The engine made no progress, or its worker died, while this render was with it."""

    code = "stuck"


class OutdatedError(LumiplyError):
    """A render was planned for other weights than the engine has now; it can be planned anew. Not for clients."""

    code = "outdated"


class StorageFullError(LumiplyError):
    """No space for the results."""

    code = "storage_full"
    status = 507

    def __init__(self, needed: int | None = None, free: int | None = None) -> None:
        figures: dict[str, str] = {}
        if needed and free is not None:
            figures = {"needed": f"{needed / 1e6:.1f}", "free": f"{free / 1e6:.1f}"}
        numbers = " (필요 약 {needed}MB, 남음 {free}MB)".format(**figures) if figures else ""
        super().__init__(
            f"서버의 저장 공간이 부족합니다{numbers}. 잠시 후 다시 요청하거나 서버를 운영하는 분께 알려 주세요.",
            **figures,
        )


class StorageUnavailableError(LumiplyError):
    """The place where results live cannot be reached, or refuses; the same request later may do."""

    code = "storage_unavailable"
    status = 503


class CancelledError(LumiplyError):
    """A render was cancelled by the one who asked for it."""

    code = "cancelled"
    status = 409


class ReplacedError(CancelledError):
    """Another photo, or other settings, came in under the same job id."""

    code = "replaced"

    def __init__(self) -> None:
        super().__init__("같은 job_id로 다른 요청이 들어와 이 작업은 취소되었습니다.")
