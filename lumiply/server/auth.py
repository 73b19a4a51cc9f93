"""Who may call: a token in a header or in the address; and signatures of results' addresses."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flask import Request
from itsdangerous import Signer

from lumiply.errors import BadSignatureError, UnauthorizedError
from lumiply.files import alone_in, write_whole

#: Name of the query parameters that carry the token and a signature.
TOKEN_QUERY: Final = "token"
SIGNATURE_QUERY: Final = "sig"

_SECRET_NAME, _TOKEN_NAME = ".secret", ".token"

#: Shorter than this, a kept secret is a file that somebody emptied or wrote into.
_SHORTEST: Final = 16
#: Read and write, for the owner and for nobody else.
_OWNER_ONLY: Final = 0o600


def new_token() -> str:
    """A token that nobody guesses: 192 random bits."""
    return secrets.token_urlsafe(24)


def keep_token(folder: Path) -> str:
    """The token that `folder` keeps, which is made at first use and readable by its owner alone.

    So the address with the token is the same after a restart. Where nothing can be kept, a new one.
    """
    try:
        return _keep(folder / _TOKEN_NAME, new_token)
    except OSError:
        return new_token()


def require_token(request: Request, token: str | None) -> None:
    """Let a request pass that carries the token: as `Authorization: Bearer`, `X-API-Key` or `?token=`.

    Args:
        token: None lets everyone pass.

    Raises:
        UnauthorizedError: it carries none, or another.
    """
    if token is None:
        return
    given = [request.headers.get("X-API-Key", ""), request.args.get(TOKEN_QUERY, "")]
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        given.append(credentials.strip())
    # Every candidate is compared, in a time that does not tell how much of it was right.
    if not any([hmac.compare_digest(text.encode(), token.encode()) for text in given]):
        raise UnauthorizedError


class ResultSigner:
    """Signs results' addresses. The same file always has the same signature, so addresses stay good."""

    def __init__(self, secret: str) -> None:
        self._signer = Signer(secret, salt="lumiply.result", digest_method=hashlib.sha256)

    def sign(self, job_id: str, name: str) -> str:
        """The signature of a result."""
        return self._signer.get_signature(f"{job_id}/{name}").decode()

    def check(self, job_id: str, name: str, signature: str) -> None:
        """Let the right signature pass.

        Raises:
            BadSignatureError: it is not.
        """
        if not self._signer.verify_signature(f"{job_id}/{name}", signature):
            raise BadSignatureError


def load_secret(folder: Path, given: str | None) -> str:
    """`given`, or the secret that `folder` keeps, which is made at first use and readable by its owner alone.

    Raises:
        OSError: it can neither be read nor written.
    """
    if given is not None:
        return given
    return _keep(folder / _SECRET_NAME, lambda: secrets.token_urlsafe(32))


def _keep(path: Path, make: Callable[[], str]) -> str:
    """What `path` keeps, else what `make` makes, kept. Servers that start at once agree on it."""
    if kept := _kept(path):
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(path.parent):
        if not _kept(path):
            write_whole(path, make().encode(), mode=_OWNER_ONLY)
        return path.read_text().strip()  # where the disk knows no locks, another's may stand there by now


def _kept(path: Path) -> str:
    """What stands in a file; empty if that is nothing, or too little to be a secret."""
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return ""
    return text if len(text) >= _SHORTEST else ""
