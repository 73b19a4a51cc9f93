"""How alike two pictures are, and how right the light is that a lamp adds to one. Pure functions of arrays.

Notation: pictures are float arrays (H, W, 3) of display values (sRGB) in [0, 1]. *Added light* is a float array
(H, W, 3) too: the lit picture minus the unlit one, both in linear light, where 1 is display white.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2gray
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

Picture = NDArray[np.floating[Any]]

#: What two equal pictures score, in dB, so that means and files stay finite.
PSNR_LIMIT: Final = 100.0
#: Linear luminance that the lamp adds where its hue is judged.
LIT_FROM: Final = 0.05
#: Linear luminance below which the lamp is said to leave the room alone.
UNLIT_BELOW: Final = 0.01
#: Chroma over largest component, below which added light counts as grey and has no hue.
GREY_BELOW: Final = 0.1
#: What a prediction scores, in degrees, where it adds nothing or grey although the true light has a hue.
NO_HUE_DEGREES: Final = 90.0
#: Pixels along each side of the square in which SSIM compares.
SSIM_WINDOW: Final = 7

_LUMINANCE: Final = (0.2126, 0.7152, 0.0722)  # Rec. 709, of linear R, G, B


def to_linear(display: Picture) -> Picture:
    """The sRGB transfer function (IEC 61966-2-1) inverted: display 0..1 to linear 0..1, any shape."""
    return np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)


def to_display(linear: Picture) -> Picture:
    """The sRGB transfer function: linear 0..1 to display 0..1, any shape; what lies outside is clipped."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def luminance(linear: Picture) -> Picture:
    """Rec. 709 luminance: (H, W, 3) -> (H, W)."""
    weights = np.asarray(_LUMINANCE, np.result_type(linear, np.float16))  # single precision stays single
    return linear @ weights


def added_light(lit: Picture, unlit: Picture) -> Picture:
    """Two pictures -> the linear light that the first has more than the second."""
    return to_linear(lit) - to_linear(unlit)


def rmse(a: Picture, b: Picture) -> float:
    """Root mean square error of two pictures, in [0, 1]."""
    return float(np.sqrt(mean_squared_error(a, b)))


def psnr(truth: Picture, picture: Picture) -> float:
    """Peak signal-to-noise ratio in dB, at most `PSNR_LIMIT`, which equal pictures have."""
    if np.array_equal(truth, picture):
        return PSNR_LIMIT
    return min(float(peak_signal_noise_ratio(truth, picture, data_range=1.0)), PSNR_LIMIT)


def ssim_grey(a: Picture, b: Picture) -> float:
    """Structural similarity of the luminance of two pictures, at most 1.

    Raises:
        ValueError: a side is shorter than `SSIM_WINDOW` pixels.
    """
    return ssim_grey_map(a, b)[0]


def ssim_grey_map(a: Picture, b: Picture) -> tuple[float, Picture]:
    """Structural similarity in grey: its mean, which leaves out the outermost pixels, and its map (H, W).

    Raises:
        ValueError: a side is shorter than `SSIM_WINDOW` pixels.
    """
    mean, similarity = structural_similarity(
        rgb2gray(a), rgb2gray(b), win_size=SSIM_WINDOW, data_range=1.0, full=True
    )
    return float(mean), similarity


def identity_ssim(similarity: Picture, true_added: Picture) -> float | None:
    """Mean of an SSIM map over the pixels that the true lamp leaves alone; None where it reaches all of them.

    Args:
        similarity: (H, W), of `ssim_grey_map(prediction, truth)`.
        true_added: the true added light; a pixel is left alone where its luminance changes by less than
            `UNLIT_BELOW`, up or down.
    """
    border = SSIM_WINDOW // 2
    inside = (slice(border, -border), slice(border, -border))
    alone = np.abs(luminance(true_added))[inside] < UNLIT_BELOW
    return float(similarity[inside][alone].mean()) if alone.any() else None


def hue_error(predicted_added: Picture, true_added: Picture) -> float | None:
    """Mean angle in degrees, 0 to 180, between the hues of predicted and true added light.

    The hue of light (R, G, B) is the direction of its chromatic vector (R - (G + B) / 2, sqrt(3) / 2 (G - B)): the
    projection along the grey axis, in which red, yellow, green, cyan, blue and magenta stand 60 degrees apart.
    Brightness and saturation do not count. Pixels count where the true lamp adds a luminance of `LIT_FROM` or
    more and the true light is not grey (chroma, the vector's length, at least `GREY_BELOW` of the largest
    component). A prediction without any chroma there scores `NO_HUE_DEGREES`.

    Returns:
        None where no pixel counts.
    """
    strongest = np.abs(true_added).max(axis=-1)
    lit = luminance(true_added) >= LIT_FROM
    true = _chromatic(true_added)
    counts = lit & (np.abs(true) >= GREY_BELOW * strongest)
    if not counts.any():
        return None
    true, predicted = true[counts], _chromatic(predicted_added[counts])
    angle = np.degrees(np.abs(np.angle(predicted * true.conj())))
    return float(np.where(np.abs(predicted) < 1e-6, NO_HUE_DEGREES, angle).mean())


def best_gain_and_tint(photo: Picture, truth: Picture) -> Picture:
    """The picture nearest to `truth` that one gain and one tint for the whole photo can make, knowing the truth.

    One factor a channel, by least squares, fitted once to display values and once to linear light; the result of
    the higher PSNR, clipped to [0, 1].
    """
    display = np.clip(photo * _least_squares(photo, truth), 0, 1)
    linear_photo, linear_truth = to_linear(photo), to_linear(truth)
    linear = to_display(linear_photo * _least_squares(linear_photo, linear_truth))
    return max(display, linear, key=lambda picture: -mean_squared_error(truth, picture))


def _chromatic(light: Picture) -> NDArray[np.complexfloating[Any, Any]]:
    """(..., 3) -> (...) chromatic vectors, as complex numbers."""
    red, green, blue = np.moveaxis(light.astype(np.float64), -1, 0)
    return (red - (green + blue) / 2) + 1j * (np.sqrt(3) / 2) * (green - blue)


def _least_squares(source: Picture, target: Picture) -> Picture:
    """(3,) the factors g that bring g * source nearest to target, a channel each; 1 for a black channel."""
    power = np.einsum("hwc,hwc->c", source, source, dtype=np.float64)
    common = np.einsum("hwc,hwc->c", source, target, dtype=np.float64)
    return np.divide(common, power, out=np.ones(3), where=power > 0).astype(source.dtype)
