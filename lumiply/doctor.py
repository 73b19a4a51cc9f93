"""Checks of this machine: what is there, what is missing, and what to do about it. Nothing is loaded or changed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from lumiply.errors import LumiplyError
from lumiply.settings import Settings

State = Literal["ok", "warning", "problem"]

#: GPU memory that seven colours at full size took at their peak (benchmarks/results/parity_h200.md), in GB.
FULL_GPU_GB: Final = 8.2
#: Memory that `lumiply relight` takes at its peak with the mini model on a CPU, in GB (0.54 read, torch 2.13).
MINI_RAM_GB: Final = 0.6
#: Free disk below which results will soon not fit, in GB.
RESULTS_GB: Final = 1.0

PYTHONS: Final = ((3, 10), (3, 13))
OLDEST_TORCH: Final = (2, 4)
PACKAGES: Final = ("flask", "huggingface_hub", "numpy", "omegaconf", "pillow", "pyngrok", "safetensors")


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and, unless all is well, what to do."""

    name: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU and its memory, in GB."""

    name: str
    total: float
    free: float


@dataclass(frozen=True)
class Machine:
    """What there is of hardware and of what drives it.

    Attributes:
        torch: version, or None if torch is not there or cannot be imported.
        torch_error: why not.
        cuda: CUDA version that torch was built for; None for a build without.
        gpus: those that torch can use.
        ram: memory, in GB; None if unknown.
        nvidia: whether NVIDIA's driver is installed.
    """

    python: tuple[int, int, int]
    torch: str | None
    torch_error: str
    cuda: str | None
    gpus: tuple[Gpu, ...]
    ram: float | None
    nvidia: bool

    @classmethod
    def read(cls) -> Machine:
        """This machine."""
        version, error, cuda, gpus = None, "", None, []
        try:
            import torch

            version, cuda = torch.__version__, torch.version.cuda
            for index in range(torch.cuda.device_count()):
                free, total = torch.cuda.mem_get_info(index)
                gpus.append(Gpu(torch.cuda.get_device_name(index), total / 1e9, free / 1e9))
        except Exception as exc:  # a broken installation may raise anything
            error = f"{type(exc).__name__}: {exc}"
        ram = None
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        nvidia = shutil.which("nvidia-smi") is not None
        return cls(sys.version_info[:3], version, error, cuda, tuple(gpus), ram, nvidia)


def examine(settings: Settings, machine: Machine | None = None) -> Iterator[Finding]:
    """All findings, one after the other."""
    machine = machine or Machine.read()
    yield check_python(machine)
    yield check_torch(machine)
    yield check_packages()
    variant, weights = check_weights(settings)
    yield weights
    yield check_device(settings, machine, variant or ("full" if settings.model == "full" else None))
    yield check_memory(settings, machine, variant)
    yield from check_tokens(settings)
    yield check_port(settings)
    if settings.results_url is None:
        yield check_disk("results disk", settings.results_dir, RESULTS_GB)
    else:
        yield check_bucket(settings.results_url)


def check_python(machine: Machine) -> Finding:
    """Whether this Python is one that the project supports."""
    text = f"{'.'.join(map(str, machine.python))} on {platform.system()} {platform.machine()}"
    low, high = ("{}.{}".format(*version) for version in PYTHONS)
    if PYTHONS[0] <= machine.python[:2] <= PYTHONS[1]:
        return Finding("Python", "ok", text)
    return Finding("Python", "problem", text, f"Install Python {low} to {high} and set up again.")


def check_torch(machine: Machine) -> Finding:
    """Whether torch is there, new enough, and built for the GPU that the machine has."""
    if machine.torch is None:
        return Finding(
            "torch",
            "problem",
            machine.torch_error or "not installed",
            "Run `pip install torch`, or `make demo`.",
        )
    build = f"CUDA {machine.cuda}" if machine.cuda else "CPU build"
    text = f"{machine.torch}, {build}"
    numbers = machine.torch.split("+")[0].split(".")
    if (int(numbers[0]), int(numbers[1])) < OLDEST_TORCH:
        newer = ".".join(map(str, OLDEST_TORCH))
        return Finding("torch", "problem", text, f"Run `pip install -U 'torch>={newer}'`.")
    if machine.nvidia and machine.cuda is None:
        remedy = "There is an NVIDIA GPU, which this build cannot use: see https://pytorch.org/get-started/locally."
        return Finding("torch", "warning", text, remedy)
    return Finding("torch", "ok", text)


def check_packages() -> Finding:
    """Whether what the server imports is installed."""
    missing = []
    for name in PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(
            "packages", "problem", f"missing: {', '.join(missing)}", f"Run `pip install {' '.join(missing)}`."
        )
    return Finding("packages", "ok", f"{len(PACKAGES)} of {len(PACKAGES)}")


def check_weights(settings: Settings) -> tuple[str | None, Finding]:
    """Which weights would run ("full", "mini" or None), and what is said about them."""
    try:
        from lumiply.colors import BASE_COLOR, COLORS
        from lumiply.weights.find import find_weights

        files = find_weights(settings.ckpt_dir, settings.adaptors_dir, settings.model)
    except LumiplyError as exc:
        return None, Finding("weights", "problem", "none to run with", str(exc))
    except ImportError as exc:
        return None, Finding("weights", "problem", f"not looked at: {exc}", "See torch above.")
    text = files.describe()
    missing = [color for color in COLORS if color not in (*files.adaptors, BASE_COLOR)]
    if files.variant == "mini":
        remedy = (
            "" if settings.model == "mini" else "For the full model, run `lumiply fetch` (a GPU is needed)."
        )
        return "mini", Finding("weights", "ok", text, remedy)
    if missing:
        return "full", Finding(
            "weights", "warning", text, "Run `lumiply fetch` for the adaptors that are not there."
        )
    return "full", Finding("weights", "ok", text)


def check_device(settings: Settings, machine: Machine, variant: str | None) -> Finding:
    """Whether the device that would run has the memory that the model needs."""
    asked = settings.device
    if asked == "cpu" or not machine.gpus:
        if asked.startswith("cuda"):
            remedy = "Set LUMIPLY_DEVICE=auto, or choose a machine with a GPU (Colab: Runtime, Change runtime type)."
            return Finding("device", "problem", f"{asked} is asked for, and torch sees no GPU", remedy)
        if variant == "full":
            remedy = (
                "It works, very slowly. Colab: Runtime, Change runtime type, T4 GPU. Or LUMIPLY_MODEL=mini."
            )
            return Finding("device", "warning", "the full model on a CPU", remedy)
        return Finding("device", "ok", "CPU, which is enough for the mini model")
    index = int(asked.partition(":")[2] or 0) if asked.startswith("cuda") else 0
    if index >= len(machine.gpus):
        return Finding(
            "device", "problem", f"{asked} is asked for, and there are {len(machine.gpus)} GPUs",
            "Set LUMIPLY_DEVICE=auto.",
        )  # fmt: skip
    gpu = machine.gpus[index]
    text = f"{gpu.name}, {gpu.free:.1f} of {gpu.total:.1f} GB free"
    if variant != "full":
        return Finding("device", "ok", text)
    need = f"the full model takes {FULL_GPU_GB} GB for seven colours at once"
    if gpu.total < FULL_GPU_GB:
        return Finding("device", "problem", f"{text}; {need}", "Use a larger GPU, or LUMIPLY_MODEL=mini.")
    if gpu.free < FULL_GPU_GB:
        return Finding(
            "device", "warning", f"{text}; {need}", "End what else uses the GPU (`nvidia-smi` lists it)."
        )
    return Finding("device", "ok", f"{text}; {need}")


def check_memory(settings: Settings, machine: Machine, variant: str | None) -> Finding:
    """Whether the weights fit into memory."""
    if machine.ram is None:
        return Finding("memory", "ok", "not known on this system")
    needed = MINI_RAM_GB
    if variant == "full":
        kept = [path for folder in (settings.ckpt_dir, settings.adaptors_dir) for path in _files(folder)]
        needed = sum(path.stat().st_size for path in kept) / 1e9
    who = "the weights take up to" if variant == "full" else "the mini model takes"
    text = f"{machine.ram:.1f} GB, of which {who} {needed:.1f}"
    if machine.ram < needed:
        return Finding("memory", "warning", text, "End other programs, or use a machine with more memory.")
    return Finding("memory", "ok", text)


def check_tokens(settings: Settings) -> Iterator[Finding]:
    """Whether tokens are set; never what they are."""
    if settings.token:
        yield Finding("server token", "ok", "set: callers must bring it")
    elif settings.page == "token":
        yield Finding("server token", "ok", "not set: one is made, and printed with the address")
    elif settings.host in ("127.0.0.1", "localhost", "::1"):
        yield Finding("server token", "ok", "not set: programs on this machine need none; a tunnel makes one")
    else:
        yield Finding(
            "server token", "warning", f"not set, and {settings.host} lets other machines in, which need none",
            "Set LUMIPLY_TOKEN to 16 letters or more, or leave --host at 127.0.0.1.",
        )  # fmt: skip
    if settings.ngrok_authtoken:
        yield Finding("ngrok token", "ok", "set")
    elif settings.public_url:
        yield Finding("ngrok token", "ok", f"not set, nor needed: {settings.public_url} leads here")
    else:
        yield Finding(
            "ngrok token", "ok", "not set: reachable from this machine only",
            "For a public address set NGROK_AUTHTOKEN (https://dashboard.ngrok.com/get-started/your-authtoken).",
        )  # fmt: skip
    try:
        from huggingface_hub import get_token

        known = get_token() is not None
    except ImportError:
        return  # said under packages
    yield Finding(
        "hub token", "ok", "set" if known else "not set: public files only",
        "" if known else "For files with conditions run `hf auth login`, or set HF_TOKEN.",
    )  # fmt: skip


def check_port(settings: Settings) -> Finding:
    """Whether the server could listen."""
    where = f"{settings.host}:{settings.port}"
    if settings.port == 0:
        return Finding("port", "ok", "any free one")
    from lumiply.server.thread import reason

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as exc:
        if _lumiply_answers(settings.port):
            return Finding("port", "warning", f"{where}: a Lumiply server answers there already", _OTHER_PORT)
        return Finding("port", "problem", f"{where}: {reason(exc)}", _OTHER_PORT)
    return Finding("port", "ok", f"{where} is free")


_OTHER_PORT: Final = (
    "Stop the program that uses it, or choose another port with LUMIPLY_PORT (0 takes any free one)."
)


def check_disk(name: str, folder: Path, needed: float) -> Finding:
    """Whether `folder` can be written and has `needed` GB free."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        remedy = "Move it, or choose another folder with LUMIPLY_RESULTS_DIR."
        return Finding(name, "problem", f"{folder} cannot be a folder: {nearest} is a file", remedy)
    free = shutil.disk_usage(nearest).free / 1e9
    text = f"{folder}: {free:.1f} GB free"
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as exc:
        remedy = "Change its owner, or choose another folder with LUMIPLY_RESULTS_DIR."
        return Finding(name, "problem", f"{folder} cannot be written ({exc.strerror})", remedy)
    if free < needed:
        return Finding(
            name, "warning", text, "Delete something, or choose another disk with LUMIPLY_RESULTS_DIR."
        )
    return Finding(name, "ok", text)


def check_bucket(url: str) -> Finding:
    """Whether something can be written there, read and removed."""
    try:
        from lumiply.server.bucket import BucketStorage

        BucketStorage(url).try_out()
    except LumiplyError as exc:
        return Finding("results", "problem", url, str(exc))
    return Finding("results", "ok", f"{url} can be written, read and cleared")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_file()] if folder.is_dir() else []


def _lumiply_answers(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return bool(json.load(response).get("status") == "healthy")
    except (OSError, ValueError, AttributeError):
        return False
