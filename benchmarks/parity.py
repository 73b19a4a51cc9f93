"""Full-size parity with the recorded tensors of the published model, and the time of seven colours.

    python -m benchmarks.parity --out benchmarks/results/parity.md

Needs a GPU with 16 GB or more. Weights are filled by name (`tests/golden/fill.py`).
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.full_model import filled_model
from benchmarks.provenance import commit
from cldm import ControlLDM
from ldm.sampling import sample_ddim
from lumiply.colors import COLORS
from lumiply.engine.pipeline import Pipeline
from lumiply.weights import Adaptor
from tests.golden.fill import golden_photo

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
TOLERANCE = 1e-5
LEAST_PSNR = 45.0
#: Seconds allowed for seven colours in half precision, nothing compiled.
BAR_SECONDS = 4.0


def relative_error(ours: Tensor, recorded: Tensor) -> float:
    return float((ours.double().cpu() - recorded.double()).norm() / recorded.double().norm())


def psnr(ours: Tensor, recorded: Tensor) -> float:
    """PSNR in dB of pictures clamped to [-1, 1] and mapped to [0, 1]."""
    difference = (ours.float().cpu().clamp(-1, 1) - recorded.clamp(-1, 1)) / 2
    return float(-10 * difference.square().mean().log10())


@torch.inference_mode()
def tensors(model: ControlLDM, dtype: torch.dtype, x_t: Tensor, device: str) -> dict[str, Tensor]:
    """Everything that `full.safetensors` records, computed in `dtype`."""
    model = model.to(device, dtype)
    photo = golden_photo()[None].to(device, dtype)
    x_t = x_t.to(device)
    text = model.cond_stage_model()
    code, tokens = model.light(torch.ones_like(photo))
    intrinsic = model.control_model.prior_extracter.model_latents.intrinsic(photo)
    conditions = model.conditions(text, intrinsic, code, tokens)
    v = model(x_t.to(dtype), torch.tensor([481], device=device), conditions)
    z0 = sample_ddim(lambda x, t: model(x.to(dtype), t, conditions), x_t, model.schedule, 50)
    features = model.first_stage_model.bypass_features(2 * photo - 1)
    picture = model.decode_first_stage(z0.to(dtype), features)
    return {
        "text_nomask": text[:, ::7, ::16],
        "light_tokens": tokens,
        "v_t481": v,
        "z0_ddim50": z0,
        "bypass_decode_slice": picture[:, :, ::4, ::4],
    }


def check_numerics(device: str) -> list[str]:
    """Table rows of every recorded tensor in strict float32, and of the picture in half precision."""
    recorded = load_file(GOLDEN / "full.safetensors")
    x_t = load_file(GOLDEN / "tiny.safetensors")["x_T"]
    model = filled_model()
    rows = ["| tensor | precision | measured | bar | |", "|---|---|---|---|---|"]
    for name, ours in tensors(model, torch.float32, x_t, device).items():
        error = relative_error(ours, recorded[name])
        verdict = "ok" if error <= TOLERANCE else "MISSED"
        rows.append(f"| {name} | float32 | relative L2 {error:.1e} | {TOLERANCE:.0e} | {verdict} |")
    for dtype in (torch.float16, torch.bfloat16):
        picture = tensors(model, dtype, x_t, device)["bypass_decode_slice"]
        value = psnr(picture, recorded["bypass_decode_slice"])
        verdict = "ok" if value >= LEAST_PSNR else "MISSED"
        kind = str(dtype).removeprefix("torch.")
        rows.append(
            f"| bypass_decode_slice | {kind} | PSNR {value:.1f} dB | {LEAST_PSNR:.0f} dB | {verdict} |"
        )
        model = filled_model()  # the halved weights cannot be doubled again
    return rows


def check_speed(device: str, repeats: int = 5) -> list[str]:
    """Table rows of end-to-end seconds of `Pipeline.relight` in float16, nothing compiled."""
    model = filled_model()
    prior = model.control_model.prior_extracter
    adaptor = Adaptor(prior.model_latents.light_encoder.state_dict(), prior.light_decoder.state_dict())
    adaptor = Adaptor(
        {key: value.clone() for key, value in adaptor.light_encoder.items()},
        {key: value.clone() for key, value in adaptor.light_decoder.items()},
    )
    pipeline = Pipeline(model, dict.fromkeys(COLORS, adaptor), device=device, dtype=torch.float16)
    pixels = (golden_photo(860, 860) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    photo = Image.fromarray(pixels.numpy())
    rows = [
        "| colours | seconds, median (min to max) | bar | peak memory | |",
        "|---|---|---|---|---|",
    ]
    for count in (1, len(COLORS)):
        torch.cuda.reset_peak_memory_stats()
        pipeline.relight(photo, COLORS[:count], seed=1, steps=5)
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            pipeline.relight(photo, COLORS[:count], seed=1, steps=50)
            seconds.append(time.perf_counter() - began)
        middle = statistics.median(seconds)
        memory = torch.cuda.max_memory_allocated() / 1e9
        bar, verdict = (
            ("", "") if count == 1 else (f"{BAR_SECONDS:.0f} s", "ok" if middle <= BAR_SECONDS else "MISSED")
        )
        rows.append(
            f"| {count} | {middle:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {bar} "
            f"| {memory:.1f} GB | {verdict} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="also write the report there")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--commit", default=commit(), help="what to print as the commit that was measured")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    report = [
        "# Full-size parity and speed",
        "",
        f"{datetime.date.today()}, commit {arguments.commit}, {torch.cuda.get_device_name()}, "
        f"torch {torch.__version__}, Python {platform.python_version()}. "
        "Command: `python -m benchmarks.parity`. Weights filled by name: they prove numerics, not usefulness.",
        "",
        *check_numerics(arguments.device),
        "",
        "Seven colours of one 860 x 860 photo, 50 DDIM steps, float16, nothing compiled, "
        "from decoded photo to pictures of its size:",
        "",
        *check_speed(arguments.device),
        "",
    ]
    print("\n".join(report), flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(report))
    if any("MISSED" in row for row in report):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
