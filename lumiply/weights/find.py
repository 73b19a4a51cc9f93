"""Which weights there are, and which of them to use: the published ones, or the embedded mini model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Final

from cldm import ControlLDMParams
from lumiply.colors import BASE_COLOR, COLORS
from lumiply.config import Variant, config_path, load_config
from lumiply.errors import WeightsError
from lumiply.weights.adaptors import find_adaptors
from lumiply.weights.converted import NETWORKS, PALETTE, read_header

log = logging.getLogger(__name__)

#: Lumiply's fine-tuned model first; LumiNet's own was trained with a causal mask in the text tower.
CHECKPOINTS: Final = ("trained_crossattn.ckpt", "trained_crossattn.safetensors")
CAUSAL_CHECKPOINTS: Final = ("LumiNet.ckpt", "LumiNet.safetensors")
BYPASSES: Final = ("new_decoder.ckpt", "new_decoder.safetensors")
LATENTS: Final = ("last.pth.tar", "last.safetensors")
MODELS: Final = ("auto", "full", "mini")
MINI_FOLDER: Final = "mini"
MINI_CHECKPOINT: Final = "lumiply_mini.safetensors"

#: Files up to this size are hashed whole, larger ones at both ends and at places between.
_HASHED_WHOLE: Final = 64 * 2**20
_END: Final = 64 * 2**10
_SAMPLE: Final = 4 * 2**10
_SAMPLES: Final = 256


@dataclass(frozen=True)
class WeightFiles:
    """The files of one model.

    Attributes:
        variant: "full" (published) or "mini" (embedded).
        config: the model's configuration.
        checkpoint: the whole model.
        bypass: bypass autoencoder, where the checkpoint does not hold it.
        latents: latent-intrinsics network, needed only if the checkpoint lacks it.
        adaptors: colour to file.
        causal_mask: whether the text tower was trained with a causal mask.
        palette: colours of a converted model; `checkpoint` is then its networks, and all else is in these two.
    """

    variant: Variant
    config: Path
    checkpoint: Path
    bypass: Path | None = None
    latents: Path | None = None
    adaptors: Mapping[str, Path] = field(default_factory=dict)
    causal_mask: bool = False
    palette: Path | None = None

    def params(self) -> ControlLDMParams:
        """The model's sizes.

        Raises:
            ConfigError: the configuration cannot be used.
        """
        params = load_config(self.config)
        return replace(params, text=replace(params.text, causal_mask=True)) if self.causal_mask else params

    def describe(self) -> str:
        """One sentence for a person: which weights, from where, and which colours lack an adaptor."""
        name = "the published full model" if self.variant == "full" else "the embedded mini model"
        if self.palette is not None:
            return f"{name}, converted ({self.checkpoint}), colours: {', '.join(read_header(self.palette).colors)}"
        with_bypass = f" with {self.bypass.name}" if self.bypass else ""
        wanted = [color for color in COLORS if color != BASE_COLOR]
        missing = [color for color in wanted if color not in self.adaptors]
        colors = f"adaptors for {len(wanted) - len(missing)} of {len(wanted)} colours"
        lacking = f" (none for {', '.join(missing)})" if missing else ""
        return f"{name} ({self.checkpoint}{with_bypass}), {colors}{lacking}"

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when the weights or the configuration do, not when they move.

        Raises:
            WeightsError: a file cannot be read.
        """
        digest = hashlib.sha256(f"{self.variant} {self.causal_mask}".encode())
        for role, path in self._files():
            try:
                digest.update(f"\n{role} {path.name} {path.stat().st_size} ".encode())
                for piece in _pieces(path):
                    digest.update(piece)
            except OSError as exc:
                raise WeightsError(
                    f"{path}: cannot be read ({exc.strerror}). Put it back, or start again."
                ) from exc
        return digest.hexdigest()[:16]

    def _files(self) -> Iterator[tuple[str, Path]]:
        named = {
            "config": self.config,
            "checkpoint": self.checkpoint,
            "bypass": self.bypass,
            "latents": self.latents,
            "palette": self.palette,
        }
        for role, path in named.items():
            if path is not None:
                yield role, path
        for color in sorted(self.adaptors):
            yield f"adaptor {color}", self.adaptors[color]


def find_weights(
    ckpt_dir: str | PathLike[str],
    adaptors_dir: str | PathLike[str],
    model: str = "auto",
    *,
    converted: bool = True,
) -> WeightFiles:
    """Choose weights: with "auto" the published ones if they are complete, otherwise the mini model.

    The converted form of either is taken where it is there (`lumiply.weights.converted`).

    Args:
        ckpt_dir: where the published files lie, and the mini model in its folder `mini`.
        adaptors_dir: where the published adaptors lie.
        model: "auto", "full" or "mini".
        converted: whether a converted form will do.

    Raises:
        WeightsError: the files of the model asked for, or of any model, are not there.
    """
    if model not in MODELS:
        raise WeightsError(f"model must be one of {', '.join(MODELS)}, not {model!r}.")
    ckpt = Path(ckpt_dir)
    adaptors = find_adaptors(adaptors_dir)
    if model == "mini":
        return _mini(ckpt, converted)
    checkpoint = _first(ckpt, CHECKPOINTS + CAUSAL_CHECKPOINTS)
    bypass, latents = _first(ckpt, BYPASSES), _first(ckpt, LATENTS)
    original = None
    if checkpoint and bypass:
        causal = checkpoint.name in CAUSAL_CHECKPOINTS
        original = WeightFiles("full", config_path("full"), checkpoint, bypass, latents, adaptors, causal)
    chosen = (_converted(ckpt, "full", original) if converted else None) or original
    if chosen is not None:
        return chosen
    needed = {CHECKPOINTS[0]: checkpoint, BYPASSES[0]: bypass}
    missing = " and ".join(name for name, path in needed.items() if path is None)
    if model == "full":
        raise WeightsError(
            f"model=full, but there is no {missing} in {ckpt.absolute()}. Run `lumiply fetch`, or put them there "
            f"(ckpt/README.md says what else is taken: .safetensors of the same name, and {CAUSAL_CHECKPOINTS[0]} "
            "as the checkpoint), or use model=mini, the embedded model."
        )
    if checkpoint or bypass or latents or adaptors:
        log.warning(
            "the published weights are not complete: no %s in %s; the mini model is used",
            missing,
            ckpt.absolute(),
        )
    return _mini(ckpt, converted)


def _mini(ckpt: Path, converted: bool) -> WeightFiles:
    folder = ckpt / MINI_FOLDER
    checkpoint = folder / MINI_CHECKPOINT
    original = None
    if checkpoint.is_file():
        original = WeightFiles("mini", config_path("mini"), checkpoint, adaptors=find_adaptors(folder))
    chosen = (_converted(folder, "mini", original) if converted else None) or original
    if chosen is None:
        raise WeightsError(
            f"there is no {MINI_CHECKPOINT} in {folder.absolute()}, where the project ships it. Start from the "
            "project's folder or set LUMIPLY_CKPT_DIR to its ckpt folder, or run `lumiply fetch` "
            "for the published weights."
        )
    return chosen


def _converted(folder: Path, variant: Variant, original: WeightFiles | None) -> WeightFiles | None:
    """The converted form in `folder`, unless it was made from other files than those that are there."""
    networks, palette = folder / NETWORKS, folder / PALETTE
    if not (networks.is_file() and palette.is_file()):
        return None
    header = read_header(networks)
    if header.variant != variant:
        raise WeightsError(f"{networks}: holds the {header.variant} model, not the {variant} one. Move it.")
    if original is not None and original.fingerprint() != header.source:
        log.warning(
            "%s was made from other files than those that are there, and is not used; run 'lumiply convert' again",
            networks,
        )
        return None
    return WeightFiles(variant, config_path(variant), networks, palette=palette)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _pieces(path: Path) -> Iterator[bytes]:
    """What of a file is hashed."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE:
            while piece := file.read(2**20):
                yield piece
            return
        yield file.read(_END)
        for index in range(1, _SAMPLES + 1):
            file.seek(size * index // (_SAMPLES + 1))
            yield file.read(_SAMPLE)
        file.seek(size - _END)
        yield file.read(_END)
