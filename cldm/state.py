"""Names in published checkpoints that are not parameters of ours, and why each may be there.

Everything else in a file must match exactly: a missing or unexpected key is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

HINT = "control_model.input_hint_block."
#: The hint convolutions' second name: the same module, stored twice.
HINT_TWIN = "control_model.input_latent_hint_cat_atten_block."
#: DDPM's derived numbers; we compute them (`NoiseSchedule.published_buffers`).
SCHEDULE_BUFFERS = frozenset(
    [
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "logvar",
    ]
)
_LATENTS = r"control_model\.prior_extracter\.model_latents\."
#: Latent Intrinsics' own relighting decoder, which LumiNet does not use.
UNUSED_DECODER = re.compile(_LATENTS + r"(pos_embed$|dec\.|final\.|light_decoder\.)")
#: The 2 x 2 box filter of each `_down` block, a constant 0.25.
RESAMPLE_FILTER = re.compile(_LATENTS + r"enc\.\d+x\d+_down\.(conv0|skip)\.resample_filter$")


def is_ignored(name: str) -> bool:
    """Whether `name` may stand in a file although no parameter of ours has it."""
    return (
        name in SCHEDULE_BUFFERS
        or UNUSED_DECODER.match(name) is not None
        or RESAMPLE_FILTER.match(name) is not None
    )


def normalise_state(state: Mapping[str, Tensor], *, doubled: bool = False) -> dict[str, Tensor]:
    """A published state dict under our names: allow-listed entries dropped, the hint's two names made one.

    With `doubled`, the model lists both names, so both are filled from whichever the file has.
    """
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if is_ignored(name):
            continue
        target = HINT + name[len(HINT_TWIN) :] if name.startswith(HINT_TWIN) else name
        result.setdefault(target, value)
    if doubled:
        twins = {
            HINT_TWIN + name[len(HINT) :]: value for name, value in result.items() if name.startswith(HINT)
        }
        result.update(twins)
    return result


def published_extras(state: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What to add to our state dict so that the published code finds every derived name it stores.

    Args:
        state: our state dict.
        buffers: `NoiseSchedule.published_buffers()`.

    Returns:
        The schedule buffers, the hint's second name and the resample filters; not the unused decoder, which
        only a published file can supply.
    """
    extras = dict(buffers)
    for name, value in state.items():
        if name.startswith(HINT):
            extras[HINT_TWIN + name[len(HINT) :]] = value
        match = re.match(rf"({_LATENTS}enc\.\d+x\d+_down\.(conv0|skip))\.weight$", name)
        if match:
            extras[f"{match[1]}.resample_filter"] = torch.full((1, 1, 2, 2), 0.25)
    return extras
