"""State dicts on disk: torch's files and safetensors, read without running code, written whole or not at all."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumiply.errors import WeightsError
from lumiply.files import written_whole

_AGAIN: Final = "Copy or download it again"


def read_state(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict into CPU tensors that are mapped from the file, in the precision it was stored in.

    What the file holds decides how it is read, not its suffix: torch's format, plain or under `state_dict`, or
    safetensors. An adaptor's two dicts come as one, with names such as `light_encoder.0.weight`.

    Raises:
        WeightsError: the file is missing, empty, cut short, no state dict, or would have to run code.
    """
    path = Path(path)
    state = _state_of(path, _read(path))
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: is no state dict: {name!r} is of type {type(value).__name__}, not a tensor. "
                "Store tensors under their names, plain or under 'state_dict'."
            )
        if value.layout is not torch.strided or value.is_quantized:
            raise WeightsError(f"{path}: {name} is sparse or quantised. Store it as a plain dense tensor.")
    return {name: value.detach() for name, value in state.items()}


def save_state(
    path: str | PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, so that others see the old file or the new one, never a part.

    Tensors may be on any device, share memory or have any strides. The folder must exist.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is then still there.
    """
    seen: set[int] = set()
    packed = {}
    for name, value in tensors.items():
        tensor = value.detach().to("cpu").contiguous()
        address = tensor.untyped_storage().data_ptr()
        packed[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    with written_whole(Path(path)) as beside:
        save_file(packed, beside, metadata={"format": "pt", **(metadata or {})})


def _read(path: Path) -> Any:
    """Whatever the file holds, by the format that its first bytes show."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError as exc:
        raise WeightsError(f"{path}: there is no such file. {_WHERE}") from exc
    except OSError as exc:
        raise WeightsError(
            f"{path}: cannot be read ({exc.strerror}). Give the path of a readable file."
        ) from exc
    if not start:
        raise WeightsError(f"{path}: is empty (0 bytes). {_AGAIN}.")
    if start.startswith(b"PK"):
        return _read_torch(path, mmap=True)
    if start.startswith(b"\x80"):  # torch's format before 1.6, which cannot be mapped
        return _read_torch(path, mmap=False)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    raise WeightsError(f"{path}: is {_foreign(start)}, no torch or safetensors file. {_AGAIN}.")


_WHERE: Final = "ckpt/README.md and adaptors/README.md say which file goes where."


def _foreign(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (run 'git lfs pull')"
    if start.lstrip()[:1] == b"<":
        return "a web page (a download that failed)"
    return "of an unknown format or cut short"


def _read_torch(path: Path, *, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as exc:
        refused = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(exc))
        if refused is None:
            raise _damaged(path) from exc
        raise WeightsError(
            f"{path}: holds Python objects ({refused[1]}), which is refused, since reading them runs code. "
            "Where you trust its source, load it there and store only its state dict, best as safetensors."
        ) from exc
    except Exception as exc:  # torch raises many kinds for a damaged file
        raise _damaged(path) from exc


def _read_safetensors(path: Path) -> Any:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}
    except Exception as exc:  # SafetensorError derives from Exception alone
        raise _damaged(path) from exc


def _damaged(path: Path) -> WeightsError:
    return WeightsError(f"{path}: is damaged or cut short ({path.stat().st_size:,} bytes). {_AGAIN}.")


def _state_of(path: Path, stored: Any) -> dict[Any, Any]:
    """The mapping in `stored` that should be the state dict."""
    if isinstance(stored, Mapping) and isinstance(stored.get("state_dict"), Mapping):
        stored = stored["state_dict"]
    if not isinstance(stored, Mapping) or not stored:
        found = (
            "an empty dict" if isinstance(stored, Mapping) else f"an object of type {type(stored).__name__}"
        )
        raise WeightsError(f"{path}: is no state dict but {found}. {_WHERE}")
    if set(stored) == {"light_encoder", "light_decoder"} and all(
        isinstance(p, Mapping) for p in stored.values()
    ):
        return {f"{part}.{name}": value for part, inner in stored.items() for name, value in inner.items()}
    return dict(stored)
