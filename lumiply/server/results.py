"""The results as static files: `/static/inference/<job_id>/<name>` for the public names, and nothing else."""

from __future__ import annotations

import mimetypes
from typing import Final

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import NotFound
from werkzeug.wsgi import FileWrapper, wrap_file

from lumiply.errors import InvalidJobIdError, UnauthorizedError
from lumiply.server.auth import SIGNATURE_QUERY
from lumiply.server.names import PUBLIC_NAMES, require_job_id
from lumiply.server.site import RESULTS_PATH, Site, current_site
from lumiply.server.storage import OpenFile
from lumiply.waiting import waiting

results = Blueprint("results", __name__)

#: Read at once from another machine.
_FAR_BYTES: Final = 2**20

#: A browser keeps a file and asks each time whether it changed (a 304 costs no bytes), because a new photo under
#: the same job id changes what stands at a URL.
_CACHE: Final = "max-age=0, public"


@results.get(f"{RESULTS_PATH}/<job_id>/<name>")
def get_result(job_id: str, name: str) -> Response:
    """One file, whole, in ranges, or not at all if the client has it already."""
    site = current_site()
    if name not in PUBLIC_NAMES:
        raise NotFound
    try:
        g.job_id = require_job_id(job_id)
    except InvalidJobIdError:
        raise NotFound from None
    _check_signature(site, job_id, name)
    try:
        file = site.store.open_file(job_id, name)
    except FileNotFoundError:
        raise NotFound from None
    try:
        return _answer(file, name)
    except BaseException:  # such as a range that the file does not have
        file.stream.close()
        raise


def _check_signature(site: Site, job_id: str, name: str) -> None:
    if site.signer is None:
        return
    try:  # whoever has the token needs no signature
        if site.token is not None:
            site.authorize()
            return
    except UnauthorizedError:
        pass
    site.signer.check(job_id, name, request.args.get(SIGNATURE_QUERY, ""))


class _FarFile(FileWrapper):
    """A file that comes from another machine, read by the thread that answers, not by the loop as near ones are."""

    def __next__(self) -> bytes:
        with waiting():
            return super().__next__()


def _answer(file: OpenFile, name: str) -> Response:
    response = Response(
        wrap_file(request.environ, file.stream) if file.is_near else _FarFile(file.stream, _FAR_BYTES),
        mimetype=mimetypes.guess_type(name)[0],
        direct_passthrough=True,
    )
    response.content_length = file.size
    # No date: a picture taken over from another job may be older than the one that stood here.
    response.set_etag(file.etag)
    response.headers["Cache-Control"] = _CACHE
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.make_conditional(request.environ, accept_ranges=True, complete_length=file.size)
    return response
