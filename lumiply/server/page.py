"""The web page at `/`: its template, its scripts and drawings, and the sample rooms that it offers.

All of the page's work is done by its scripts over the HTTP contract, so that it sees what any client sees.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, abort, render_template, request, send_file
from PIL import Image

from lumiply.errors import UnauthorizedError
from lumiply.server.auth import TOKEN_QUERY
from lumiply.server.site import Site, current_site

page = Blueprint(
    "page", __name__, template_folder="templates", static_folder="static", static_url_path="/page"
)

#: Scripts and styles from here alone; pictures also from the scripts themselves (blob:).
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_SAMPLE: Final = re.compile(r"sample_[a-z0-9_]{1,60}\.(png|jpg)")
_THUMB: Final = (320, 240)
_SAMPLE_AGE_S: Final = 3600


#: Remembers in a browser that it brought the token; holds a hash of it that opens the page and nothing else.
_TICKET: Final = "lumiply_page"

#: What the question for the token looks like; served to everyone.
_OPEN_FILES: Final = ("page.css", "icon.svg")


@page.before_request
def admit() -> tuple[str, int] | None:
    """Where the page is off, its addresses do not exist; where it is behind the token, the token is asked for."""
    site = current_site()
    if site.settings.page == "off":
        abort(404)
    if site.settings.page != "token" or (request.view_args or {}).get("filename") in _OPEN_FILES:
        return None
    if hmac.compare_digest(request.cookies.get(_TICKET, "").encode(), _ticket(site).encode()):
        return None
    try:
        site.authorize()
    except UnauthorizedError:
        if request.endpoint != "page.index" or not request.accept_mimetypes.accept_html:
            raise
        language = request.accept_languages.best_match(("en", "ko"), default="en")
        return render_template("token.html", language=language, wrong=TOKEN_QUERY in request.args), 401
    return None


@page.after_request
def restrict(response: Response) -> Response:
    """Tell the browser what the page may do, and give who brought the token a ticket for the page's parts."""
    site = current_site()
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    if site.settings.page == "token" and request.endpoint == "page.index":
        response.headers["Cache-Control"] = "no-store"
        if response.status_code == 200:
            response.set_cookie(
                _TICKET, _ticket(site), httponly=True, samesite="Lax", secure=request.is_secure
            )
        else:
            response.headers["Content-Security-Policy"] = POLICY.replace(
                "form-action 'none'", "form-action 'self'"
            )
    return response


def _ticket(site: Site) -> str:
    return hmac.new((site.token or "").encode(), b"lumiply.page", hashlib.sha256).hexdigest()


@page.get("/")
def index() -> str:
    """The page."""
    return render_template("page.html", samples=[path.name for path in samples()])


@page.get("/page/samples/<name>")
def sample(name: str) -> Response:
    """A sample room; with `?thumb=1` a small JPEG of it."""
    path = next((path for path in samples() if path.name == name), None)
    if path is None:
        abort(404)
    if "thumb" in request.args:
        small = _thumbnail(path.absolute(), path.stat().st_mtime_ns)
        return send_file(BytesIO(small), "image/jpeg", max_age=_SAMPLE_AGE_S)
    return send_file(path.absolute(), max_age=_SAMPLE_AGE_S)


def samples() -> list[Path]:
    """The sample rooms: of `images/` here, else of the one beside the package. Empty if there are none."""
    for folder in (Path("images"), Path(__file__).parents[2] / "images"):
        found = sorted(path for path in folder.glob("sample_*") if _SAMPLE.fullmatch(path.name))
        if found:
            return found
    return []


@lru_cache(maxsize=16)
def _thumbnail(path: Path, changed: int) -> bytes:
    buffer = BytesIO()
    with Image.open(path) as opened:
        small = opened.convert("RGB")
        small.thumbnail(_THUMB)
        small.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
