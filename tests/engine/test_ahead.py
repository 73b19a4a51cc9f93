"""Code that processes of their own compile computes the same, is kept, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from lumiply.engine import ahead
from lumiply.engine.ahead import AheadOfTime, quick_switching, sweep
from lumiply.engine.compiling import BackgroundCompiler, CompilationError, Function, Part
from tests.engine.toy import Toy, images, toy_task, whole

WAIT = 60
#: Any setting of Inductor that changes nothing here.
OPTIONS = {"max_autotune_gemm": False}
#: torch's own compiler imports what torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True, scope="module")
def same_environment() -> Iterator[None]:
    """The folder of compiled code is the whole process's, and these tests' is gone after them."""
    before = dict(os.environ)
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> tuple[Path, Toy, Function]:
    """The toy's two parts, compiled: the folder, the network, and its whole function."""
    folder, network, installed = tmp_path_factory.mktemp("cache"), Toy(), []
    task = toy_task("the toy", installed.append, network)
    compiler = BackgroundCompiler([task], AheadOfTime(folder, options=OPTIONS), slots=2)
    assert compiler.wait(300) and len(installed) == 1
    return folder, network, installed[0]


@torch.inference_mode()
def test_a_part_compiled_by_a_process_of_its_own_computes_the_same(compiled):
    _, network, quick = compiled
    shift = torch.full((1,), -1.0)
    assert torch.allclose(quick(images(2), shift), whole(network)(images(2), shift), atol=1e-5)


@torch.inference_mode()
def test_numbers_in_another_order_are_put_in_order_and_other_sizes_refused(compiled):
    _, network, quick = compiled
    shift = torch.ones(1)
    across = images(2).contiguous()  # channels first
    assert across.stride() != images(2).stride()
    assert torch.allclose(quick(across, shift), whole(network)(across, shift), atol=1e-5)
    for other in (images(3), images(2, 7), images(2).double()):
        with pytest.raises(ValueError, match="compiled for"):
            quick(other, shift)


@torch.inference_mode()
def test_the_next_start_compiles_nothing_and_may_have_other_weights(compiled, monkeypatch):
    folder, _, _ = compiled
    monkeypatch.setattr(AheadOfTime, "_run", lambda *_: pytest.fail("a process was started"))
    installed: list[Function] = []
    other = Toy(seed=5)
    task = toy_task("the toy", installed.append, other)
    assert BackgroundCompiler([task], AheadOfTime(folder, options=OPTIONS)).wait(WAIT)
    shift = torch.zeros(1)
    assert torch.allclose(installed[0](images(2), shift), whole(other)(images(2), shift), atol=1e-5)


def test_other_options_or_another_source_are_other_code(compiled, monkeypatch):
    folder, network, _ = compiled
    part = Part(network, "encode", (images(2),))

    def asked(cache: AheadOfTime) -> bool:
        """Whether a process would be started."""
        monkeypatch.setattr(cache, "_run", lambda *_: 1)
        try:
            cache(part, "the toy, part 1")
        except CompilationError:
            return True
        return False

    assert not asked(AheadOfTime(folder, options=OPTIONS))
    assert asked(AheadOfTime(folder, options={"max_autotune_gemm": True})) and asked(AheadOfTime(folder))
    monkeypatch.setattr(ahead, "_source_hash", lambda: "edited")
    assert asked(AheadOfTime(folder, options=OPTIONS))


def test_only_the_weights_that_a_part_uses_are_kept_for_it(compiled):
    folder, _, _ = compiled
    forms = {path.parent.name[:14]: json.loads(path.read_text()) for path in folder.rglob(ahead.FORM)}
    assert forms["the-toy-part-1"]["weights"] == ["conv.weight", "conv.bias"]
    assert forms["the-toy-part-2"]["weights"] == ["scale"]


def test_a_part_that_cannot_be_compiled_says_why(tmp_path):
    with pytest.raises(CompilationError, match="status 1.*this method cannot be traced"):
        AheadOfTime(tmp_path)(Part(Toy(), "broken", (images(1),)), "a broken part")
    assert not list((tmp_path / "compiled" / "parts").iterdir())


def test_closing_ends_the_process_that_compiles(tmp_path):
    cache = AheadOfTime(tmp_path)
    errors: list[Exception] = []

    def compile() -> None:
        try:
            cache(Part(Toy(), "encode", (images(1),)), "a part")
        except CompilationError as error:
            errors.append(error)

    thread = threading.Thread(target=compile)
    thread.start()
    until = time.monotonic() + WAIT
    while not cache._processes and time.monotonic() < until:
        time.sleep(0.01)
    (process,) = cache._processes
    cache.close()
    thread.join(WAIT)
    assert process.poll() is not None and "closing" in str(errors[0])
    with pytest.raises(CompilationError, match="closing"):
        cache(Part(Toy(), "encode", (images(1),)), "a part")


def test_of_two_engines_that_share_a_folder_one_compiles_and_the_other_loads(tmp_path, monkeypatch):
    entered, gate, compiled = threading.Event(), threading.Event(), []
    true_compile, results = AheadOfTime._compile, []

    def compile(self: AheadOfTime, description: bytes, path: Path, name: str) -> None:
        compiled.append(name)
        entered.set()
        assert gate.wait(WAIT)
        true_compile(self, description, path, name)

    monkeypatch.setattr(AheadOfTime, "_compile", compile)
    network, caches = Toy(), [AheadOfTime(tmp_path) for _ in range(3)]

    def ask(cache: AheadOfTime) -> None:
        try:
            results.append(cache(Part(network, "encode", (images(2),)), "a part"))
        except CompilationError as error:
            results.append(error)

    threads = [threading.Thread(target=ask, args=(cache,)) for cache in caches]
    threads[0].start()
    assert entered.wait(WAIT)
    for thread in threads[1:]:
        thread.start()
    caches[2].close()  # while it waits
    threads[2].join(WAIT)
    assert isinstance(results.pop(), CompilationError) and not results
    gate.set()
    for thread in threads[:2]:
        thread.join(300)
    assert compiled == ["a part"] and len(results) == 2
    with torch.inference_mode():
        assert all(
            torch.allclose(quick(images(2))[0], network.encode(images(2))[0], atol=1e-5) for quick in results
        )


def test_where_files_cannot_be_locked_each_engine_compiles(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise NotImplementedError("no flock")

    monkeypatch.setattr("filelock.BaseFileLock.acquire", refuse)
    monkeypatch.setattr(AheadOfTime, "_run", lambda *_: 1)
    with pytest.raises(CompilationError, match="status 1"):
        AheadOfTime(tmp_path)(Part(Toy(), "encode", (images(2),)), "a part")


ASKS = """
import sys, threading
from pathlib import Path
import torch
from lumiply.engine.ahead import AheadOfTime
from lumiply.engine.compiling import Part
from tests.engine.toy import Toy

cache = AheadOfTime(Path(sys.argv[1]))
part = Part(Toy(), "encode", (torch.zeros(1, 4, 6, 6),))
threading.Thread(target=cache, args=(part, "a part"), daemon=True).start()
while not cache._processes:
    threading.Event().wait(0.01)
print(*(process.pid for process in cache._processes), flush=True)
threading.Event().wait()
"""


def test_a_server_that_is_killed_leaves_no_process_behind(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    asker = subprocess.Popen(
        [sys.executable, "-c", ASKS, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert asker.stdout is not None
    with asker.stdout as lines:
        compiler = psutil.Process(int(lines.readline()))
        asker.kill()
        asker.wait(WAIT)
        psutil.wait_procs([compiler], timeout=WAIT)
    assert not compiler.is_running() or compiler.status() == psutil.STATUS_ZOMBIE


def test_without_a_folder_that_can_be_written_code_is_kept_until_the_end(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = AheadOfTime(blocked)
    assert "cannot be kept" in caplog.text and cache.folder.is_dir()
    cache.close()
    assert not cache.folder.exists()


def test_kernels_of_our_own_are_kept_beside_the_code_and_need_no_home(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for folder, given in ((tmp_path / "kept", None), (blocked, None), (tmp_path / "kept", "/chosen")):
        monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
        if given is not None:
            monkeypatch.setenv("TRITON_CACHE_DIR", given)
        cache = AheadOfTime(folder)
        assert os.environ["TRITON_CACHE_DIR"] == (given or str(cache.folder / "triton"))
        cache.close()


def test_parts_that_were_not_loaded_for_long_are_removed(tmp_path, monkeypatch):
    old, new = tmp_path / "old-1", tmp_path / "new-1"
    for folder in (old, new):
        folder.mkdir()
        (folder / ahead.CODE).write_text("")
    long_ago = time.time() - ahead.KEPT_S - 60
    os.utime(old, (long_ago, long_ago))
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new-1"]


def test_loading_lets_other_threads_in_quickly_and_puts_things_back():
    usual = sys.getswitchinterval()
    with quick_switching():
        assert sys.getswitchinterval() < usual / 10
    assert sys.getswitchinterval() == usual


def test_threads_that_load_at_the_same_time_put_things_back_when_the_last_has_ended():
    usual = sys.getswitchinterval()
    first, second = quick_switching(), quick_switching()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() < usual / 10
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == usual


def test_kept_code_that_is_damaged_is_made_again(compiled, tmp_path, monkeypatch, caplog):
    folder, network, _ = compiled
    shutil.copytree(folder, tmp_path / "copy")
    (kept,) = (tmp_path / "copy").rglob("parts/the-toy-part-1-*")
    whole_code = (kept / ahead.CODE).read_bytes()
    form = (kept / ahead.FORM).read_text()
    (kept / ahead.CODE).write_bytes(whole_code[:1000])

    def compile(self: AheadOfTime, description: bytes, path: Path, name: str) -> None:
        assert not path.exists()
        path.mkdir()
        (path / ahead.CODE).write_bytes(whole_code)
        (path / ahead.FORM).write_text(form)

    monkeypatch.setattr(AheadOfTime, "_compile", compile)
    cache = AheadOfTime(tmp_path / "copy", options=OPTIONS)
    encode = cache(Part(network, "encode", (images(2),)), "the toy, part 1")
    assert "cannot be loaded" in caplog.text
    with torch.inference_mode():
        assert torch.allclose(encode(images(2))[0], network.encode(images(2))[0], atol=1e-5)
