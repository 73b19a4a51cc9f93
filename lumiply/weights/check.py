"""Whether a state dict is what its place needs: first its kind, then every key and shape."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from lumiply.errors import WeightsError

SHOWN_KEYS: Final = 5


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: what it is, in words.
        place: where the published file of this kind goes; empty for a kind that is not needed.
        marks: beginnings of names, one of which such a file has.
    """

    name: str
    place: str
    marks: tuple[str, ...]


CHECKPOINT: Final = Kind(
    "a whole model", "ckpt/trained_crossattn.ckpt", ("model.diffusion_model.", "control_model.")
)
LATENTS: Final = Kind("a latent-intrinsics network", "ckpt/last.pth.tar", ("module.enc.", "enc."))
BYPASS: Final = Kind("a bypass autoencoder", "ckpt/new_decoder.ckpt", ("decoder.new_last_procee.",))
AUTOENCODER: Final = Kind("an autoencoder without bypass", "", ("encoder.", "decoder."))
ADAPTOR: Final = Kind(
    "a colour's adaptor", "adaptors/adaptor_<color>.pth", ("light_encoder.", "light_decoder.")
)
#: The first whose mark is found names the file; a latent-intrinsics network has an adaptor's names too.
KINDS: Final = (CHECKPOINT, LATENTS, BYPASS, AUTOENCODER, ADAPTOR)


def require_kind(path: Path, state: Collection[str], wanted: Kind) -> None:
    """Refuse a file that is recognised as one of another kind.

    Raises:
        WeightsError: it says what the file is, where that belongs, and what is needed.
    """
    kind = next((kind for kind in KINDS if any(name.startswith(kind.marks) for name in state)), wanted)
    if kind is not wanted:
        belongs = f" It belongs in {kind.place}." if kind.place else ""
        raise WeightsError(
            f"{path}: holds {kind.name}, but {wanted.name} is needed here (such as {wanted.place}).{belongs}"
        )


def require_match(
    expected: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    file_of: Callable[[str], Path],
    remedy: str,
) -> None:
    """Refuse names or shapes that differ from `expected`, and tensors that hold no real numbers.

    Args:
        expected: tensors of the right shapes, on the `meta` device if need be.
        given: what would be loaded.
        file_of: the file from which a name was, or should have been, read.
        remedy: what to do about it.

    Raises:
        WeightsError: it names the first file that does not fit, up to five keys of each kind of problem, and how
            many there are.
    """
    shapes = [name for name in expected if name in given and given[name].shape != expected[name].shape]
    missing = [name for name in expected if name not in given]
    unknown = [name for name in given if name not in expected]
    if not (shapes or missing or unknown):
        return _require_real_numbers(given, file_of, remedy)
    path = file_of((shapes or missing or unknown)[0])
    shapes, missing, unknown = (
        [name for name in names if file_of(name) == path] for names in (shapes, missing, unknown)
    )
    problems = []
    if shapes:  # another configuration: the names of what else differs would say no more
        name = shapes[0]
        problems.append(
            f"{name} has shape {list(given[name].shape)}, but {list(expected[name].shape)} is needed "
            f"({_count(shapes)} differ in shape, {len(missing)} are missing, {len(unknown)} are not the model's)"
        )
    elif missing:
        problems.append(f"{_count(missing)} that the model needs {_is(missing)} missing: {_list(missing)}")
    if unknown and not shapes:
        problems.append(f"{_count(unknown)} {_is(unknown)} not the model's: {_list(unknown)}")
    raise WeightsError(f"{path}: {'; '.join(problems)}. {remedy}")


def _require_real_numbers(given: Mapping[str, Tensor], file_of: Callable[[str], Path], remedy: str) -> None:
    for name, value in given.items():
        if not value.is_floating_point():
            raise WeightsError(f"{file_of(name)}: {name} holds {value.dtype}, not real numbers. {remedy}")


def _count(names: list[str]) -> str:
    return f"{len(names)} key" if len(names) == 1 else f"{len(names)} keys"


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _list(names: list[str]) -> str:
    rest = len(names) - SHOWN_KEYS
    return ", ".join(names[:SHOWN_KEYS]) + (f" and {rest} more" if rest > 0 else "")
