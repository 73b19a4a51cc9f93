"""Requests that mean harm, made from a seed: damaged forms, damaged images, paths that climb, strange headers."""

from __future__ import annotations

import http.client
import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final
from urllib.parse import quote

from PIL import Image

from tests.fakes import photo_bytes

#: What may come back; all of it documented in `/openapi.json`.
ALLOWED: Final = {200, 206, 304, 400, 401, 403, 404, 405, 408, 409, 413, 416, 431, 501}


@dataclass(frozen=True)
class Attack:
    """A request as it goes onto the wire."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def attacks(seed: int, count: int) -> Iterator[Attack]:
    """`count` of them: the tables first, then damaged forms and images in turn."""
    rng = random.Random(seed)
    tables = [*_paths(), *_headers(), *_job_ids(), *_pictures()]
    yield from tables[:count]
    for number in range(max(0, count - len(tables))):
        yield (_damaged_form if number % 2 else _damaged_image)(rng)


def form(fields: dict[str, bytes], image: bytes | None, boundary: bytes = b"bOuNd") -> bytes:
    """A multipart body, with nothing escaped."""
    parts = [b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (boundary, n.encode(), v)
             for n, v in fields.items()]  # fmt: skip
    if image is not None:
        head = b'--%s\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' % boundary
        parts.append(head + image + b"\r\n")
    return b"".join(parts) + b"--%s--\r\n" % boundary


def process(body: bytes, **headers: str) -> Attack:
    """`POST /process` with a form."""
    return Attack(
        "POST", "/process", body, {"Content-Type": "multipart/form-data; boundary=bOuNd", **headers}
    )


def check(status: int, content_type: str, body: bytes) -> str:
    """What is wrong with an answer; empty if nothing is."""
    if status not in ALLOWED:
        return f"status {status}: {body[:200]!r}"
    if b"Traceback" in body or b'File "/' in body:
        return f"an inside look: {body[:200]!r}"
    if status >= 400:
        try:
            refusal = json.loads(body)
        except ValueError:
            return f"{status} is no JSON: {body[:200]!r}"
        if refusal.get("success") is not False or not refusal.get("code") or not refusal.get("error"):
            return f"{status} lacks code or sentence: {refusal}"
    return ""


def send(port: int, attack: Attack, timeout: float = 30.0) -> str:
    """Send it to a server here; what was wrong with the answer, or empty."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.putrequest(attack.method, attack.path, skip_host="Host" in attack.headers)
        given = {name.lower() for name in attack.headers}
        for name, value in attack.headers.items():
            connection.putheader(name, value.encode("latin-1"))
        if attack.body and not given & {"content-length", "transfer-encoding"}:
            connection.putheader("Content-Length", str(len(attack.body)))
        connection.endheaders(attack.body or None)
        answer = connection.getresponse()
        body = answer.read()
        if attack.method == "HEAD":
            return "" if answer.status in ALLOWED else f"status {answer.status}"
        return check(answer.status, answer.headers.get("Content-Type", ""), body)
    except (OSError, http.client.HTTPException) as exc:
        return f"no answer: {exc!r}"
    finally:
        connection.close()


_CLIMBING: Final = (
    "..", "../", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//....//etc/passwd",
    "..\\..\\windows", "%5c..%5c", "/etc/passwd", "//etc/passwd", "C:/boot.ini", "%00", "a%00.png", "%0d%0aX: y",
    "~root", ".secret", ".job.json", "%c0%ae%c0%ae/", "%ff%fe", "\\\\host\\share", "x" * 3000, "%252e%252e%252f",
)  # fmt: skip


def _paths() -> Iterator[Attack]:
    for text in _CLIMBING:
        text = quote(text, safe="/%.~:$\\")
        for start in ("/static/inference/", "/static/inference/job/", "/jobs/", "/", "/process/", "/static/"):
            yield Attack("GET", start + text)
        yield Attack("DELETE", f"/jobs/{text}")
    for method in ("PUT", "PATCH", "TRACE", "OPTIONS", "HEAD", "PROPFIND", "GEt"):
        for path in ("/process", "/jobs/a", "/static/inference/a/off.png", "/health"):
            yield Attack(method, path)


def _headers() -> Iterator[Attack]:
    good = form({"job_id": b"h", "color": b"red"}, photo_bytes())
    tables: list[dict[str, str]] = [
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/form-data; boundary="},
        {"Content-Type": "multipart/form-data; boundary=" + "b" * 5000},
        {"Content-Type": 'multipart/form-data; boundary="\xff"'},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json"},
        {"Content-Type": "multipart/form-data; boundary=bOuNd; charset=utf-7"},
        {"Content-Length": "-1"},
        {"Content-Length": "1e3"},
        {"Content-Length": "99999999999999999999"},
        {"Content-Length": "5, 6"},
        {"Transfer-Encoding": "gzip"},
        {"Transfer-Encoding": "chunked, identity"},
        {"Host": "evil.example"},
        {"Host": "a b"},
        {"Host": "<script>"},
        {"Host": ""},
        {"X-Forwarded-For": "' OR 1=1", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher"},
        {"Authorization": "Bearer " + "x" * 8000},
        {"Authorization": "\xff\xfe"},
        {"Cookie": "a=" + "b" * 20_000},
        {"X-Long": "y" * 40_000},
        {"Accept-Encoding": "bomb"},
        {"If-None-Match": '"' + "e" * 4000},
    ]
    for headers in tables:
        yield process(good, **headers)
    for asked in (
        "bytes=0-99999999999999999999",
        "bytes=-0",
        "bytes=a-b",
        "bytes=" + "0-0," * 2000,
        "lines=1-2",
    ):
        yield Attack("GET", "/static/inference/h/off.png", headers={"Range": asked})


def _job_ids() -> Iterator[Attack]:
    for text in (
        *_CLIMBING,
        " ",
        "\x00",
        "a/b",
        "-rf",
        "'; DROP TABLE jobs; --",
        "${jndi:x}",
        "{{7*7}}",
        "작업",
        "\ud7ff",
    ):
        yield process(form({"job_id": text.encode(), "color": b"red"}, photo_bytes()))
        yield process(form({"job_id": b"h", "color": text.encode()}, photo_bytes()))
        for name in ("colors", "seed", "steps", "preset", "callback_url"):
            yield process(form({"job_id": b"h", "color": b"red", name: text.encode()}, photo_bytes()))
    for url in (
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost:22/",
        "file:///etc/passwd",
        "gopher://x",
    ):
        yield process(form({"job_id": b"h", "color": b"red", "callback_url": url.encode()}, photo_bytes()))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _pictures() -> Iterator[Attack]:
    """Pictures that lie about themselves."""
    png = b"\x89PNG\r\n\x1a\n"
    for width, height in ((0, 0), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (30_000, 30_000), (65_501, 1)):
        header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        yield _picture(png + header + _chunk(b"IDAT", zlib.compress(bytes(100))) + _chunk(b"IEND", b""))
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    bomb = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
    yield _picture(png + header + bomb + _chunk(b"IDAT", zlib.compress(bytes(300))) + _chunk(b"IEND", b""))
    yield _picture(png + header + _chunk(b"IDAT", zlib.compress(bytes(60_000_000))) + _chunk(b"IEND", b""))
    for text in (
        b"",
        b"\0",
        b"<svg onload=alert(1)>",
        b"%PDF-1.7",
        b"PK\3\4",
        b"\x80\x04c__builtin__\nexec\n.",
        b"GIF89a",
    ):
        yield _picture(text)
    for mode, kind in (
        ("CMYK", "JPEG"),
        ("I;16", "PNG"),
        ("LA", "PNG"),
        ("P", "GIF"),
        ("RGB", "TIFF"),
        ("1", "BMP"),
    ):
        file = BytesIO()
        Image.new(mode, (9, 7)).save(file, kind)
        yield _picture(file.getvalue())


def _picture(data: bytes) -> Attack:
    return process(form({"job_id": b"hostile", "color": b"red"}, data))


def _damage(rng: random.Random, data: bytes) -> bytes:
    """`data` with bytes changed, cut, doubled or put in."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(damaged) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(damaged):
            damaged[at] = rng.randrange(256)
        elif kind == 1:
            del damaged[at : at + rng.choice((1, 8, 64))]
        elif kind == 2:
            damaged[at:at] = rng.randbytes(rng.choice((1, 8, 64)))
        else:
            damaged[at:at] = damaged[at : at + 32]
    return bytes(damaged)


def _damaged_image(rng: random.Random) -> Attack:
    kind = rng.choice(("PNG", "JPEG", "WEBP"))
    return _picture(_damage(rng, photo_bytes(red=rng.randrange(4), size=(48, 36), format=kind)))


def _damaged_form(rng: random.Random) -> Attack:
    fields = {"job_id": b"hostile", "color": b"red", "callback_url": b""}
    return process(_damage(rng, form(fields, photo_bytes(size=(8, 8)))))
