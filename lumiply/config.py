"""Model configurations: a YAML file in the layout of latent diffusion models, checked into `ControlLDMParams`.

Every key is used, or can have one value only, or is ignored for a reason written here; any other key is an
error. A `target` is looked up in a list of names and never imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import yaml  # type: ignore[import-untyped]

from cldm import ControlLDM, ControlLDMParams, ControlNet, ControlNetParams, IntrinsicsParams
from ldm.autoencoder import AutoencoderKL, AutoencoderParams
from ldm.schedule import NoiseSchedule
from ldm.text import FrozenOpenCLIPEmbedder, TextTowerParams
from ldm.unet import UNetModel, UNetParams
from lumiply.errors import ConfigError

#: The names that a `target` may have. They are the published ones, wherever our classes live.
TARGETS: Final[Mapping[str, type]] = {
    "cldm.LumiNet.ControlLDM": ControlLDM,
    "cldm.LumiNet.ControlNet": ControlNet,
    "cldm.LumiNet.ControlledUnetModel": UNetModel,
    "ldm.models.autoencoder.AutoencoderKL": AutoencoderKL,
    "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder": FrozenOpenCLIPEmbedder,
}

Variant = Literal["full", "mini"]
FILES: Final[Mapping[str, str]] = {"full": "cldm_v21_LumiNet.yaml", "mini": "lumiply_mini.yaml"}


@dataclass(frozen=True)
class Keys:
    """What one section of a configuration may say.

    Attributes:
        sizes: dataclass whose plain fields may be given under their own names.
        sections: keys under which further sections stand.
        derived: keys from which a size is worked out.
        fixed: keys that may only have one of these values, since we build nothing else.
        ignored: keys that change nothing, and why.
    """

    sizes: type[Any]
    sections: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)

    def defaults(self) -> dict[str, Any]:
        """Field names with their published values; the type of a value says what may stand in its place."""
        return {
            item.name: item.default
            for item in dataclasses.fields(self.sizes)
            if item.default is not dataclasses.MISSING and item.name not in _NOT_IN_FILES
        }

    def known(self) -> list[str]:
        return [*self.defaults(), *self.sections, *self.derived, *self.fixed, *self.ignored]


#: Fields that files say in other words (`layer: penultimate`).
_NOT_IN_FILES: Final = frozenset({"skip_last"})
_BLOCKS: Final = "how activations are stored while training; results are the same"
_SAME_BLOCKS: Final[Mapping[str, tuple[Any, ...]]] = {
    "use_spatial_transformer": (True,),
    "use_linear_in_transformer": (True,),
    "dims": (2,),
    "num_classes": (None,),
    "num_heads": (-1,),
    "conv_resample": (True,),
    "resblock_updown": (False,),
    "use_scale_shift_norm": (False,),
}
_SAME_BLOCKS_IGNORED: Final[Mapping[str, str]] = {
    "image_size": "the networks take any size; model.params.image_size is the one that counts",
    "use_checkpoint": _BLOCKS,
    "legacy": "says how heads were counted in old files; num_head_channels decides",
    "use_fp16": "precision is chosen at load",
}
_MODEL: Final = Keys(
    ControlLDMParams,
    sections=("control_stage_config", "unet_config", "first_stage_config", "cond_stage_config"),
    fixed={
        "parameterization": ("v",),
        "conditioning_key": ("crossattn",),
        "beta_schedule": ("linear",),
        "ckpt_path": (None,),
    },
    ignored={
        "monitor": "the training script chooses what it watches",
        "log_every_t": "logging of the published training code",
        "num_timesteps_cond": "the prompt is always the empty one",
        "first_stage_key": "naming of the published training data",
        "cond_stage_key": "naming of the published training data",
        "control_key": "naming of the published training data",
        "cond_stage_trainable": "the training script chooses what it trains",
        "sd_locked": "the training script chooses what it trains",
        "use_ema": "averaged weights are the training script's; files hold one set",
        "only_mid_control": "false in every published file, and the sampler always uses all controls",
        "scale_by_std": "scale_factor is given",
    },
)
_UNET: Final = Keys(UNetParams, fixed=_SAME_BLOCKS, ignored=_SAME_BLOCKS_IGNORED)
_CONTROL: Final = Keys(
    UNetParams,
    sections=("intrinsics",),
    derived=("hint_width",),
    fixed=_SAME_BLOCKS,
    ignored={**_SAME_BLOCKS_IGNORED, "hint_channels": "the latent intrinsics decide how wide the hint is"},
)
_INTRINSICS: Final = Keys(IntrinsicsParams)
_FIRST_STAGE: Final = Keys(
    AutoencoderParams,
    sections=("ddconfig",),
    derived=("embed_dim",),
    fixed={"ckpt_path": (None,)},
    ignored={
        "lossconfig": "the loss is the training script's",
        "monitor": "the training script chooses what it watches",
    },
)
_AUTOENCODER: Final = Keys(
    AutoencoderParams,
    fixed={"double_z": (True,), "attn_resolutions": ([],), "dropout": (0.0,), "attn_type": ("vanilla",)},
    ignored={"resolution": "the autoencoder takes any size; model.params.image_size is the one that counts"},
)
_TEXT: Final = Keys(
    TextTowerParams,
    derived=("layer", "max_length"),
    fixed={"arch": ("ViT-H-14",), "version": ("laion2b_s32b_b79k",)},
    ignored={
        "freeze": "the training script chooses what it trains",
        "device": "the device is chosen at load",
    },
)
_LAYERS: Final[Mapping[str, int]] = {"penultimate": 1, "last": 0}


def config_path(variant: Variant) -> Path:
    """Path of the configuration that ships with the project, in a checkout and in an installed package."""
    return Path(__file__).resolve().parents[1] / "models" / FILES[variant]


def load_config(path: str | PathLike[str]) -> ControlLDMParams:
    """Read a configuration; keys that it leaves out have the published values.

    Raises:
        ConfigError: the file cannot be read, a target or key is unknown, or a value is out of its limits.
    """
    root = _Section(Path(path), "", _read(Path(path)))
    root.allow(["model"])
    model = root.section("model").params_of(ControlLDM, also=("base_learning_rate",))
    values = model.sizes(_MODEL)
    control = model.section("control_stage_config").params_of(ControlNet)
    unet = model.section("unet_config").params_of(UNetModel)
    params = model.build(
        ControlLDMParams,
        unet=unet.build(UNetParams, **unet.sizes(_UNET)),
        control=_control(control),
        first_stage=_first_stage(model.section("first_stage_config").params_of(AutoencoderKL)),
        text=_text(model.section("cond_stage_config").params_of(FrozenOpenCLIPEmbedder)),
        **values,
    )
    _check_agreement(model, params)
    return params


def _read(path: Path) -> Any:
    from omegaconf import OmegaConf  # here, since a model can be built without a file
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError as exc:
        folder = config_path("full").parent
        raise ConfigError(f"{path}: there is no such file. The project's own lie in {folder}.") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read ({exc}).") from exc
    except (yaml.YAMLError, OmegaConfBaseException) as exc:
        raise ConfigError(f"{path}: is not a YAML configuration ({exc}).") from exc


def _control(section: _Section) -> ControlNetParams:
    values = section.sizes(_CONTROL)
    intrinsics = section.section("intrinsics", required=False)
    extra = {}
    if "hint_width" in section.values:
        extra["hint_width"] = section.read("hint_width", ControlNetParams.hint_width)
    values.setdefault("attention_resolutions", (4, 2, 1))
    return section.build(
        ControlNetParams,
        unet=section.build(UNetParams, **values),
        intrinsics=intrinsics.build(IntrinsicsParams, **intrinsics.sizes(_INTRINSICS)),
        **extra,
    )


def _first_stage(section: _Section) -> AutoencoderParams:
    section.check(_FIRST_STAGE, fields=False)
    sizes = section.section("ddconfig", required=False)
    params = sizes.build(AutoencoderParams, **sizes.sizes(_AUTOENCODER))
    wanted = params.z_channels
    if section.values.get("embed_dim", wanted) != wanted:
        section.refuse(
            "embed_dim", f"is {section.values['embed_dim']!r}, but must equal z_channels, {wanted}"
        )
    return params


def _text(section: _Section) -> TextTowerParams:
    values = section.sizes(_TEXT)
    layer = section.values.get("layer", "penultimate")
    if layer not in _LAYERS:
        section.refuse("layer", f"is {layer!r}, but must be one of {', '.join(_LAYERS)}")
    if "max_length" in section.values:
        length = section.read("max_length", TextTowerParams.context_length)
        if values.setdefault("context_length", length) != length:
            section.refuse("max_length", f"is {length}, but context_length is {values['context_length']}")
    return section.build(TextTowerParams, skip_last=_LAYERS[layer], **values)


def _check_agreement(section: _Section, params: ControlLDMParams) -> None:
    """Refuse sizes that are fine each by itself and do not fit together."""
    unet, control, first = params.unet, params.control.unet, params.first_stage
    pairs = {
        "control_stage_config.params.in_channels": (control.in_channels, "channels", params.channels),
        "unet_config.params.in_channels": (unet.in_channels, "channels", params.channels),
        "unet_config.params.out_channels": (unet.out_channels, "channels", params.channels),
        "first_stage_config.params.ddconfig.z_channels": (first.z_channels, "channels", params.channels),
    }
    for name in ("model_channels", "channel_mult", "num_res_blocks"):
        key = f"control_stage_config.params.{name}"
        pairs[key] = (getattr(control, name), f"unet_config.params.{name}", getattr(unet, name))
    for key, (value, other, wanted) in pairs.items():
        if value != wanted:
            section.refuse(key, f"is {value}, but must equal {other}, {wanted}")
    if first.downsampling != 8:
        key = "first_stage_config.params.ddconfig.ch_mult"
        section.refuse(
            key, f"has {len(first.ch_mult)} entries, but the hint fits latents of an eighth: 4 entries"
        )
    try:
        NoiseSchedule.scaled_linear(params.linear_start, params.linear_end, params.timesteps)
    except ValueError as exc:
        section.refuse("linear_start", str(exc))


@dataclass(frozen=True)
class _Section:
    """A mapping in a file, with its place for error messages."""

    file: Path
    place: str
    values: Any

    def __post_init__(self) -> None:
        if not isinstance(self.values, Mapping):
            where = f"{self.place} " if self.place else ""
            kind = type(self.values).__name__
            raise ConfigError(f"{self.file}: {where}must be a mapping of keys, not {kind}.")

    def key_path(self, key: Any) -> str:
        return f"{self.place}.{key}" if self.place else str(key)

    def refuse(self, key: Any, problem: str) -> NoReturn:
        raise ConfigError(f"{self.file}: {self.key_path(key)} {problem}.")

    def section(self, key: str, *, required: bool = True) -> _Section:
        """What stands under `key`; an empty section if it may be missing and is."""
        if key not in self.values and required:
            self.refuse(key, "is missing")
        return _Section(self.file, self.key_path(key), self.values.get(key, {}))

    def allow(self, known: list[str]) -> None:
        for key in self.values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=3)
                hint = (
                    f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known))}."
                )
                self.refuse(key, f"is not a key that we know; {hint} Correct or remove it")

    def params_of(self, wanted: type, *, also: tuple[str, ...] = ()) -> _Section:
        """The `params` of a `target` that must name the class `wanted`."""
        self.allow(["target", "params", *also])
        target = self.values.get("target")
        names = [name for name, known in TARGETS.items() if known is wanted]
        if not isinstance(target, str) or TARGETS.get(target) is not wanted:
            self.refuse("target", f"is {target!r}, but must be {' or '.join(names)}")
        return self.section("params", required=False)

    def check(self, keys: Keys, *, fields: bool = True) -> None:
        """Refuse unknown keys, and values of fixed keys that we cannot honour."""
        self.allow(keys.known() if fields else [key for key in keys.known() if key not in keys.defaults()])
        for key, allowed in keys.fixed.items():
            if key in self.values and not any(_same(self.values[key], value) for value in allowed):
                choice = " or ".join(str(value) for value in allowed)
                self.refuse(key, f"is {self.values[key]!r}, but only {choice} can be honoured")

    def sizes(self, keys: Keys) -> dict[str, Any]:
        """The sizes that this section gives, checked, after checking all its other keys."""
        self.check(keys)
        return {key: self.read(key, value) for key, value in keys.defaults().items() if key in self.values}

    def read(self, key: str, like: Any) -> Any:
        """The value of `key`, which must be of the kind of `like`."""
        value = self.values[key]
        if isinstance(like, bool):
            fits, limit = isinstance(value, bool), "true or false"
        elif isinstance(like, tuple):
            fits = isinstance(value, list) and all(_is_size(item) for item in value)
            value, limit = (tuple(value) if fits else value), "a list of whole numbers of 1 or more"
        elif isinstance(like, float):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            fits, limit = number and 0 <= value < math.inf, "a number of 0 or more"
        else:
            fits, limit = _is_size(value), "a whole number of 1 or more"
        if not fits:
            self.refuse(key, f"is {value!r}, but must be {limit}")
        return value

    def build(self, params: type[Any], **values: Any) -> Any:
        """`params(**values)`, whose own limits are reported with this place."""
        try:
            return params(**values)
        except ValueError as exc:
            raise ConfigError(f"{self.file}: {self.place}: {exc}.") from exc


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _same(value: Any, other: Any) -> bool:
    """Equal, and not merely as True equals 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
