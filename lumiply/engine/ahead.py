"""Parts of networks compiled ahead of time by a process of their own, kept on disk, and loaded from there.

What is kept is what PyTorch's Inductor makes of a graph (`torch._inductor.standalone_compile`). Weights are not in
it: they are among its inputs, so it serves any weights of that architecture, and takes no memory beside those that
are loaded already. Loading it traces nothing. The process is `lumiply.engine.compiler`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock, Timeout
from torch import nn
from torch.utils._pytree import tree_leaves

import cldm
import ldm
import lumiply.engine
import modi_vae
from lumiply.engine.compiling import CompilationError, Function, Part
from lumiply.engine.descriptions import CODE, FORM, Layout, describe, state_of
from lumiply.engine.pauses import Pauses

log = logging.getLogger(__name__)

#: A compilation that takes longer is given up.
LIMIT_S: Final = 1800.0
#: A part that was not loaded for as long is removed.
KEPT_S: Final = 60 * 24 * 3600.0
#: Seconds between two looks whether what is waited for is still wanted.
LOOK_S: Final = 0.5
#: The module whose processes compile.
COMPILER: Final = "lumiply.engine.compiler"
#: What loads code: two seconds of Python, the first time.
LOADER: Final = "torch._inductor.standalone_compile"
#: Loading changes settings of the whole process for a moment.
_LOADING: Final = threading.Lock()
#: How long loading keeps other threads from the interpreter.
SWITCH_S: Final = 0.0002


class AheadOfTime:
    """Compiles parts in processes of their own. May be called from several threads at once."""

    def __init__(
        self,
        folder: Path | None,
        *,
        options: Mapping[str, Any] | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        """Keep compiled parts in `folder`, made if need be; without one, or where that fails, only until the end.

        Args:
            options: settings of Inductor, by name.
            pauses: of the engine; code is loaded in them, one part in each. None: whenever it is there.
        """
        self._options = dict(options or {})
        self._pauses = pauses or Pauses(quiet=0)
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.folder = self._made(folder)
        # kernels of our own (`ldm.moments`) are kept by Triton itself, else in a home that need not be there
        os.environ.setdefault("TRITON_CACHE_DIR", str(self.folder / "triton"))

    def _made(self, folder: Path | None) -> Path:
        if folder is not None:
            kept = folder.expanduser() / "compiled"
            try:
                kept.mkdir(parents=True, exist_ok=True)
                sweep(kept / "parts")
                os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept))
                return kept
            except OSError as error:
                log.warning(
                    "%s: compiled code cannot be kept (%s); every start compiles anew", kept, error.strerror
                )
        self._temporary = tempfile.TemporaryDirectory(prefix="lumiply-compiled-")
        return Path(self._temporary.name)

    def __call__(self, part: Part, name: str) -> Function:
        """See `Compiler`. What is there already is loaded at once; if it is damaged, it is made again."""
        self._pause()
        with quick_switching():
            description = describe(part)
            options = repr(sorted(self._options.items())).encode()
            key = hashlib.sha256(b"\0".join([description, options, surroundings(part)])).hexdigest()[:20]
        plain_name = re.sub("[^a-z0-9]+", "-", name.lower())
        path = self.folder / "parts" / f"{plain_name}-{key}"
        if path.is_dir():
            with contextlib.suppress(Exception):  # damaged: see below
                return self._load(path, part.network)
        with self._alone_with(plain_name):
            if path.is_dir():
                try:
                    return self._load(path, part.network)
                except Exception as error:
                    log.warning("%s: kept code cannot be loaded (%s) and is made again", name, error)
                    shutil.rmtree(path, ignore_errors=True)
            path.parent.mkdir(exist_ok=True)
            self._compile(description, path, name)
            return self._load(path, part.network)

    def _load(self, path: Path, network: nn.Module) -> Function:
        """See `load`; in a pause, and by itself."""
        with self._turn:
            self._pause()
            if LOADER not in sys.modules:
                with quick_switching():
                    importlib.import_module(LOADER)
                self._pause()
            return load(path, network)

    def _pause(self) -> None:
        """Let renders go first."""
        self._pauses.wait(lambda: self._closed)
        if self._closed:
            raise CompilationError("the engine is closing")

    @contextlib.contextmanager
    def _alone_with(self, name: str) -> Iterator[None]:
        """Of several engines on a machine, such as a replica for each GPU, one compiles it and the others wait."""
        locks = self.folder / "locks"
        locks.mkdir(exist_ok=True)
        lock = FileLock(locks / f"{name}.lock")
        while not lock.is_locked:
            if self._closed:
                raise CompilationError("the engine is closing")
            try:
                lock.acquire(LOOK_S)
            except Timeout:
                continue
            except (OSError, NotImplementedError) as error:  # a file system without locks
                log.debug("%s: %s", locks, error)
                break
        try:
            yield
        finally:
            lock.release()

    def _compile(self, description: bytes, path: Path, name: str) -> None:
        with tempfile.TemporaryDirectory(prefix="lumiply-part-") as folder:
            given, log_path = Path(folder, "part"), Path(folder, "log")
            given.write_bytes(pickle.dumps((description, self._options)))
            command = [sys.executable, "-m", COMPILER, str(given), str(path), str(os.getpid())]
            environment = {
                **os.environ,
                # this process's own folder, since what is chosen by trial is kept beside the code
                "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(self.folder)),
                "TORCHINDUCTOR_COMPILE_THREADS": str(max(1, (os.cpu_count() or 1) // 4)),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            }
            with log_path.open("wb") as out:
                status = self._run(command, environment, out)
            if status != 0 or not path.is_dir():
                if self._closed:
                    raise CompilationError(f"{name}: the engine is closing")
                lines = log_path.read_text(errors="replace").strip().splitlines()
                log.debug("%s: %s", name, "\n".join(lines))
                raise CompilationError(
                    f"the compiler ended with status {status}: {' | '.join(lines[-3:])[-600:]}"
                )

    def _run(self, command: Sequence[str], environment: Mapping[str, str], out: Any) -> int | None:
        with self._lock:
            if self._closed:
                raise CompilationError("the engine is closing")
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that it ends with all that it has started
            )
            self._processes.add(process)
        try:
            return process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)
            with self._lock:
                self._processes.discard(process)

    def close(self) -> None:
        """End every compilation that is under way."""
        with self._lock:
            self._closed = True
            processes = list(self._processes)
        self._pauses.wake()
        for process in processes:
            _end(process)
        if self._temporary is not None:
            self._temporary.cleanup()


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def sweep(folder: Path) -> None:
    """Remove parts that no start has loaded for `KEPT_S` seconds."""
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > KEPT_S:
                shutil.rmtree(path, ignore_errors=True)


def load(path: Path, network: nn.Module) -> Function:
    """The compiled method, bound to the weights of `network`."""
    with contextlib.suppress(OSError):
        os.utime(path)
    form = json.loads((path / FORM).read_text())
    state = state_of(network)
    weights = [state[name] for name in form["weights"]]
    layouts, is_list = [Layout(*fields) for fields in form["inputs"]], form["is_list"]
    with _LOADING, quick_switching():
        loader = importlib.import_module(LOADER)
        compiled = loader.CompiledArtifact.load(path=str(path / CODE), format="binary")

    def run(*inputs: Any) -> Any:
        fitting = [layout.fit(given) for layout, given in zip(layouts, tree_leaves(inputs), strict=True)]
        results = compiled(*weights, *fitting)
        return list(results) if is_list else results[0]

    return run


@contextlib.contextmanager
def quick_switching() -> Iterator[None]:
    """Python code within lets other threads in after 0.2 ms, not 5; threads may be within at the same time.

    A network that is launched operation by operation asks for the interpreter again after each of them, a thousand
    times a step, and would wait 5 ms each time for a thread that never rests.
    """
    with _SWITCHING.lock:
        if _SWITCHING.within == 0:
            _SWITCHING.usual = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_S)
        _SWITCHING.within += 1
    try:
        yield
    finally:
        with _SWITCHING.lock:
            _SWITCHING.within -= 1
            if _SWITCHING.within == 0:
                sys.setswitchinterval(_SWITCHING.usual)


class _Switching:
    """Of the whole process: how many threads are within `quick_switching`, and what to go back to."""

    def __init__(self) -> None:
        self.lock, self.within, self.usual = threading.Lock(), 0, 0.0


_SWITCHING: Final = _Switching()


def surroundings(part: Part) -> bytes:
    """What else decides the code that comes out: versions, device, and the source of the networks."""
    device = next(iter(state_of(part.network).values())).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return f"{torch.__version__} {sys.version_info[:2]} {name} {_source_hash()}".encode()


@cache
def _source_hash() -> str:
    packages = (cldm, ldm, modi_vae, lumiply.engine)
    files = [path for package in packages for path in sorted(Path(package.__path__[0]).glob("*.py"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
