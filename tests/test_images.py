"""Decoding what strangers send, and writing files whole."""

from __future__ import annotations

import contextlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lumiply.errors import ImageError, ImageTooLargeError
from lumiply.images import encode_jpeg, encode_png, read_photo
from tests.fakes import photo_bytes


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_usual_formats_are_read(format: str) -> None:
    photo = read_photo(photo_bytes(red=200, format=format))
    assert (photo.mode, photo.size) == ("RGB", (40, 30))
    assert photo.getpixel((5, 5)) == pytest.approx((200, 100, 50), abs=6)


@pytest.mark.parametrize("format", ["BMP", "GIF", "TIFF", "ICO", "PPM", "TGA", "AVIF"])
def test_other_formats_are_refused(format: str) -> None:
    with pytest.raises(ImageError, match="PNG, JPEG, WebP"):
        read_photo(photo_bytes(format=format))


@pytest.mark.parametrize("format", ["BMP", "AVIF"])
def test_files_of_ones_own_may_have_formats_that_uploads_may_not(tmp_path: Path, format: str) -> None:
    path = tmp_path / "photo"
    path.write_bytes(photo_bytes(format=format))
    assert read_photo(path).size == (40, 30)
    with pytest.raises(ImageError):
        read_photo(path.read_bytes())


def test_a_photo_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held a quarter turn to the left
    assert read_photo(saved(Image.new("RGB", (40, 30)), "JPEG", exif=exif)).size == (30, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_counts_as_none() -> None:
    data = saved(Image.new("RGB", (40, 30)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert read_photo(data).size == (40, 30)


def test_transparent_parts_become_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    photo = read_photo(saved(image))
    assert [photo.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]


def test_a_palette_with_a_transparent_entry_becomes_white_there() -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    assert read_photo(saved(image, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def swapped_profile() -> bytes:
    """A colour profile whose red is sRGB's blue, and whose blue is its red."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"held").replace(b"bXYZ", b"rXYZ").replace(b"held", b"bXYZ")


@pytest.mark.parametrize(
    ("mode", "format"), [("RGB", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("RGB", "WEBP")]
)
def test_colours_are_those_that_the_photos_profile_means(mode: str, format: str) -> None:
    image = Image.new("RGB", (8, 8), (200, 100, 50)).convert(mode)
    photo = read_photo(saved(image, format, icc_profile=swapped_profile()))
    assert photo.mode == "RGB" and photo.getpixel((4, 4)) == pytest.approx((50, 100, 200), abs=6)
    for encoded in (encode_png(photo), encode_jpeg(photo)):  # before and after are seen alike
        with Image.open(BytesIO(encoded)) as kept:
            assert "icc_profile" not in kept.info


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"DISPLAY-P3" * 20),
        ("RGB", swapped_profile()[:300]),
        ("L", swapped_profile()),
        ("CMYK", swapped_profile()),
    ],
)
def test_a_profile_that_is_damaged_or_of_another_mode_counts_as_none(mode: str, profile: bytes) -> None:
    image = Image.new("RGB", (8, 8), (200, 100, 50)).convert(mode)
    plain, photo = read_photo(saved(image, "JPEG")), read_photo(saved(image, "JPEG", icc_profile=profile))
    assert photo.tobytes() == plain.tobytes() and "icc_profile" not in photo.info


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    format = "JPEG" if mode == "CMYK" else "PNG"
    assert read_photo(saved(Image.new(mode, (4, 4)), format)).mode == "RGB"


def test_sixteen_bit_grey_keeps_its_tones() -> None:
    grey = Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.uint16))
    photo = read_photo(saved(grey))
    assert [photo.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_only_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert read_photo(data).getpixel((0, 0)) == (255, 0, 0)


def test_the_pixel_limit_is_the_callers() -> None:
    data = photo_bytes(size=(100, 100))
    assert read_photo(data, max_megapixels=0.01).size == (100, 100)
    with pytest.raises(ImageTooLargeError, match="한도 0.009메가픽셀"):
        read_photo(data, max_megapixels=0.009)


def test_a_side_longer_than_a_jpeg_can_have_is_refused() -> None:
    with pytest.raises(ImageTooLargeError, match="65501 x 1"):
        read_photo(saved(Image.new("1", (65_501, 1))))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.6, 0.9])
def test_a_photo_cut_anywhere_is_refused(format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), format)
    with pytest.raises(ImageError):
        read_photo(whole[: int(share * len(whole))])


def test_damaged_bytes_raise_nothing_but_image_errors() -> None:
    noise = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "WEBP"):
        whole = photo_bytes(format=format)
        for _ in range(150):
            data = bytearray(whole)
            for place in noise.integers(0, len(data), 4):
                data[place] = noise.integers(0, 256)
            with contextlib.suppress(ImageError, ImageTooLargeError):
                assert read_photo(bytes(data)).mode == "RGB"


def test_a_path_is_read_and_a_missing_one_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo_bytes())
    assert read_photo(tmp_path / "a.png").size == (40, 30)
    with pytest.raises(ImageError, match="b.png"):
        read_photo(tmp_path / "b.png")


def test_what_is_encoded_decodes_again() -> None:
    image = Image.new("RGB", (8, 8), (250, 10, 60))
    assert read_photo(encode_png(image)).tobytes() == image.tobytes()
    assert read_photo(encode_jpeg(image)).getpixel((4, 4)) == pytest.approx((250, 10, 60), abs=3)


def test_a_jpeg_is_the_same_where_the_system_gives_no_file_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.effect_noise((300, 200), 90).convert("RGB")
    usual = encode_jpeg(image)

    def refuse(name: str) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.memfd_create", refuse, raising=False)
    assert encode_jpeg(image) == usual
