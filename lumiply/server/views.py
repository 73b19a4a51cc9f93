"""`POST /process`: parse, check, delegate, answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from flask import Blueprint, g, request
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

from lumiply.colors import in_palette_order, require_color
from lumiply.engine.protocol import LARGEST_SEED, MOST_STEPS
from lumiply.errors import FormTooLargeError, InvalidFieldError, MissingFieldError
from lumiply.server.names import PHOTO_NAME, is_job_id, output_name, require_job_id
from lumiply.server.order import Order
from lumiply.server.site import Site, current_site, guard

process = Blueprint("process", __name__)
process.before_request(guard)

#: In the WSGI environment: when the request's first byte came, in seconds since 1970. Our server sets it.
BEGAN: Final = "lumiply.began"


@dataclass(frozen=True)
class ProcessRequest:
    """The form of `POST /process`, checked.

    Attributes:
        order: what is wanted.
        callback_url: empty for none.
    """

    order: Order
    callback_url: str

    @classmethod
    def parse(cls, site: Site) -> ProcessRequest:
        """Read it from the current request, checking in the order of the contract.

        Raises:
            UserError: a part is missing or cannot be used.
            BadRequest: there is no telling by which addresses the client will reach the results.
        """
        try:
            form, image = request.form, request.files.get("image")
        except TimeoutError as exc:  # the client stopped sending
            raise RequestTimeout from exc
        except RequestEntityTooLarge as exc:
            if (request.content_length or 0) > (request.max_content_length or 0):
                raise
            raise FormTooLargeError(
                (request.max_form_memory_size or 0) / 1e6, request.max_form_parts or 0
            ) from exc
        upload = image.read() if image is not None else b""
        if not upload:
            raise MissingFieldError("image")
        job_id, color = form.get("job_id", ""), form.get("color", "")
        several = [
            name for text in form.getlist("colors") for part in text.split(",") if (name := part.strip())
        ]
        if not job_id:
            raise MissingFieldError("job_id")
        if is_job_id(job_id):
            g.job_id = job_id  # for the log, whatever comes of it
        if not color and not several:
            raise MissingFieldError("color")
        colors = in_palette_order([require_color(name) for name in ([color] if color else []) + several])
        require_job_id(job_id)
        order = Order(
            job_id,
            upload,
            colors,
            only=bool(several),
            seed=_integer("seed", 0, LARGEST_SEED),
            steps=_integer("steps", 1, MOST_STEPS),
            preset=form.get("preset", "").strip() or None,
        )
        _ = site.base_url  # raises now, not once all has been rendered
        callback_url = form.get("callback_url", "").strip()
        if callback_url:
            site.callbacks.check(callback_url)
        return cls(order, callback_url)


@process.post("/process")
def post_process() -> dict[str, Any]:
    """Relight one photo. Asked for one colour, the others are rendered beside it, for the calls that follow."""
    site = current_site()
    asked = ProcessRequest.parse(site)
    order = asked.order
    g.colors = ",".join(order.colors)
    site.jobs.ensure(order, site.settings.request_timeout_s - seconds_on_the_way())
    answer = {
        "job_id": order.job_id,
        "status": "completed",
        "result": {
            "images": {color: site.result_url(order.job_id, output_name(color)) for color in order.colors},
            "input_image_url": site.result_url(order.job_id, PHOTO_NAME),
        },
        "message": "색상 이미지 생성 완료",
    }
    if asked.callback_url:
        site.callbacks.deliver(asked.callback_url, answer)
    return answer


def seconds_on_the_way() -> float:
    """Seconds since the first byte of the current request came, as far as its server tells."""
    return time.time() - float(request.environ.get(BEGAN, time.time()))


def _integer(field: str, low: int, high: int) -> int | None:
    text = request.form.get(field, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and low <= int(text) <= high):
        raise InvalidFieldError(
            field, text, f"{low}부터 {high}까지의 정수로 보내 주세요.", low=str(low), high=str(high)
        )
    return int(text)
