"""Photos in, pictures out: decoding what strangers send, encoding results, writing files whole.

The sentences are Korean, as the product that shows them to people is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lumiply.errors import ImageError, ImageTooLargeError

log = logging.getLogger(__name__)

#: Formats that are tried on an upload, and no other of Pillow's decoders; and those of a file of one's own.
UPLOAD_FORMATS: Final = ("PNG", "JPEG", "WEBP")
FORMATS: Final = (*UPLOAD_FORMATS, "BMP", "AVIF")

#: Longest side that a JPEG, the format of the results, can hold.
LONGEST_SIDE: Final = 65_500

_FORMATS_TEXT: Final = {UPLOAD_FORMATS: "PNG, JPEG, WebP", FORMATS: "PNG, JPEG, WebP, BMP, AVIF"}


def read_photo(source: bytes | Path, max_megapixels: float = 50.0) -> Image.Image:
    """Decode a photo to an upright picture in sRGB; transparent parts become white.

    Args:
        source: the file's bytes, as uploaded, in one of `UPLOAD_FORMATS`; or its path here, in one of `FORMATS`.
        max_megapixels: limit, checked on the header before any pixel is decoded. In millions of pixels.

    Raises:
        ImageError: no such file, not an image of these formats, or a damaged one.
        ImageTooLargeError: more pixels than the limit, or a longer side than a JPEG can have.
    """
    data = _bytes_of(source)
    formats = UPLOAD_FORMATS if isinstance(source, bytes) else FORMATS
    with contextlib.closing(_open(data, max_megapixels, formats)) as image:
        _check_size(image, max_megapixels)
        try:
            image.load()
            return _to_rgb(_upright(image))
        except Exception as exc:  # whatever a decoder raises on hostile bytes
            raise ImageError(
                f"이미지가 손상되었거나 끝까지 전송되지 않았습니다 ({len(data)}바이트)."
                " 파일을 확인하고 다시 보내 주세요.",
                bytes=str(len(data)),
            ) from exc


def encode_png(image: Image.Image) -> bytes:
    """`image` as a PNG file, lossless."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def encode_jpeg(image: Image.Image, quality: int = 95) -> bytes:
    """`image` as a JPEG file. Full colour resolution from quality 90 on, so that a lamp's colour keeps its edges."""
    with _room() as file:
        image.convert("RGB").save(file, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
        file.seek(0)
        return file.read()


def _room() -> BinaryIO:
    """A file in memory. Pillow lets other threads work only while it encodes into one that the system knows."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # where a sandbox forbids it
            return os.fdopen(os.memfd_create("lumiply-picture"), "w+b")
    return BytesIO()


def _bytes_of(source: bytes | Path) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as exc:
        raise ImageError(
            f"이미지 파일을 읽을 수 없습니다: {source} ({exc.strerror}). 경로를 확인해 주세요."
        ) from exc


def _open(data: bytes, max_megapixels: float, formats: tuple[str, ...]) -> Image.Image:
    """The picture with its header read and its pixels not."""
    try:
        return Image.open(BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        found = re.search(r"\((\d+) pixels\)", str(exc))
        raise _too_many(int(found[1]) if found else None, max_megapixels) from exc
    except (UnidentifiedImageError, KeyError) as exc:  # KeyError: a Pillow without one of the formats
        raise ImageError(
            f"이미지 파일이 아니거나 지원하지 않는 형식입니다 ({len(data)}바이트)."
            f" {_FORMATS_TEXT[formats]} 중 하나로 보내 주세요.",
            bytes=str(len(data)),
        ) from exc
    except Exception as exc:  # a header that a decoder took for its own and then stumbled over
        raise ImageError(
            f"이미지 머리말이 손상되었습니다. {_FORMATS_TEXT[formats]} 중 하나로 다시 저장해 보내 주세요."
        ) from exc


def _check_size(image: Image.Image, max_megapixels: float) -> None:
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise _too_many(width * height, max_megapixels)
    if max(width, height) > LONGEST_SIDE:
        raise ImageTooLargeError(
            f"이미지의 한 변이 너무 깁니다: {width} x {height} (한도 {LONGEST_SIDE}픽셀). 줄여서 다시 보내 주세요.",
            width=str(width),
            height=str(height),
            side_limit=str(LONGEST_SIDE),
        )


def _too_many(pixels: int | None, max_megapixels: float) -> ImageTooLargeError:
    figures = {"limit": f"{max_megapixels:g}"}
    if pixels:
        figures["megapixels"] = f"{pixels / 1e6:.1f}"
    size = f": {figures['megapixels']}메가픽셀" if pixels else ""
    return ImageTooLargeError(
        f"이미지가 너무 큽니다{size} (한도 {figures['limit']}메가픽셀). 더 작은 사진으로 다시 보내 주세요.",
        **figures,
    )


def _upright(image: Image.Image) -> Image.Image:
    """The picture as its camera was held. A damaged EXIF block counts as none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as exc:  # EXIF is parsed from hostile bytes, too
        log.info("EXIF ignored: %s", exc)
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB and without a profile, so that what is made of it has its colours."""
    profile = image.info.get("icc_profile")
    opaque = _opaque(image)
    rgb = (_in_srgb(opaque, profile) if profile else None) or opaque.convert("RGB")
    rgb.info.pop("icc_profile", None)
    return rgb


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """None if the profile is damaged, or of another kind of picture: it then counts as none."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception as exc:  # profiles are parsed from hostile bytes, too
        log.info("colour profile ignored: %s", exc)
        return None


def _opaque(image: Image.Image) -> Image.Image:
    """The picture on white: L, RGB or CMYK."""
    if image.mode.startswith(("I", "F")):  # 16 bits a pixel, grey; Pillow's own conversion would clip it
        grey = np.asarray(image, dtype=np.float64) / 257.0
        return Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8))
    kind = "L" if image.mode in ("1", "L", "LA") else "CMYK" if image.mode == "CMYK" else "RGB"
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return image.convert(kind)
