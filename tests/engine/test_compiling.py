"""What is compiled elsewhere takes over when it is ready, agrees with what was there, and never stops a render."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from torch import Tensor

from lumiply.engine import ahead
from lumiply.engine.ahead import AheadOfTime, quick_switching, sweep
from lumiply.engine.compiling import BackgroundCompiler, CompilationError, Function, Part, Task
from lumiply.engine.descriptions import Layout, describe
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.tasks import compile_tasks
from tests.engine.toy import Toy
from tests.nano import nano_adaptor, nano_model

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


class Plain:
    """Compiles nothing: gives each part as it stands. What `before` does, it does first."""

    def __init__(self, before: Callable[[str], None] = lambda name: None) -> None:
        self.before, self.closed, self.names = before, threading.Event(), []

    def __call__(self, part: Part, name: str) -> Function:
        self.before(name)
        self.names.append(name)
        return getattr(part.network, part.method)

    def close(self) -> None:
        self.closed.set()


def toy_task(name: str, install: Callable[[Function], None], network: Toy | None = None) -> Task:
    network = network or Toy()

    def inputs() -> tuple[Tensor, ...]:
        return images(2), torch.full((1,), 0.5)

    def encode(given: tuple[Tensor, ...]) -> Part:
        return Part(network, "encode", given[:1])

    def decode(given: tuple[Tensor, ...]) -> Part:
        return Part(network, "decode", (encode(given), given[1]))

    def assemble(functions: Sequence[Function]) -> Function:
        return lambda x, shift: functions[1](functions[0](x), shift)

    return Task(name, inputs, (encode, decode), assemble, whole(network), install)


def whole(network: Toy) -> Function:
    return lambda x, shift: network.decode(network.encode(x), shift)


def images(batch: int, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, size, size, generator=generator).contiguous(
        memory_format=torch.channels_last
    )


def test_nobody_waits_for_a_compilation_and_it_takes_over_when_ready():
    gate, installed = threading.Event(), []
    compiler = BackgroundCompiler([toy_task("a step", installed.append)], Plain(lambda _: gate.wait(WAIT)))
    assert not installed and not compiler.wait(0)
    gate.set()
    assert compiler.wait(WAIT) and len(installed) == 1


def test_a_compilation_that_fails_is_logged_and_changes_nothing(caplog):
    def broken(name: str) -> None:
        raise CompilationError("no C++ compiler")

    installed: list[Function] = []
    plain = Plain(broken)
    with caplog.at_level("WARNING"):
        tasks = [toy_task(f"step {n}", installed.append) for n in (1, 2)]
        assert BackgroundCompiler(tasks, plain).wait(WAIT)
    assert not installed and plain.closed.is_set()
    assert "step 1 could not be compiled" in caplog.text and "no C++ compiler" in caplog.text
    assert "step 2" not in caplog.text


@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_what_computes_something_else_is_not_installed(error, caplog):
    class Wrong(Plain):
        def __call__(self, part: Part, name: str) -> Function:
            right = super().__call__(part, name)
            return (lambda *given: right(*given) * (1 + error)) if part.method == "decode" else right

    installed: list[Function] = []
    with caplog.at_level("WARNING"):
        assert BackgroundCompiler([toy_task("a step", installed.append)], Wrong()).wait(WAIT)
    assert not installed and "from what it was" in caplog.text


def test_a_closed_compiler_begins_nothing_more(caplog):
    entered, gate, installed = threading.Event(), threading.Event(), []

    def slow(name: str) -> None:
        entered.set()
        assert gate.wait(WAIT)

    plain = Plain(slow)
    compiler = BackgroundCompiler([toy_task(f"step {n}", installed.append) for n in (1, 2)], plain, slots=1)
    assert entered.wait(WAIT)
    compiler.close()
    gate.set()
    assert compiler.wait(WAIT) and not installed
    assert len(plain.names) == 1 and plain.closed.is_set() and "could not be" not in caplog.text


@pytest.mark.parametrize("sizes", [(2,), (2, 1)])
def test_all_stages_of_a_pipeline_can_be_compiled_and_give_the_same_pictures(sizes):
    pipeline = Pipeline(nano_model(), {"red": nano_adaptor("red")})
    photo = Image.new("RGB", (40, 30), (120, 90, 60))
    before = pipeline.relight(photo, ["white", "red"], seed=1, steps=3)
    plain = Plain()
    assert BackgroundCompiler(compile_tasks(pipeline, sizes), plain, slots=1).wait(WAIT)
    assert sorted(pipeline.stepper._compiled) == sorted(sizes)
    hints = [("hint", size) for size in sizes]
    assert set(pipeline._compiled) == {("decoder", 1), ("features", 1), *hints}
    assert plain.names[0] == "the step of 2 pictures, part 1"
    after = pipeline.relight(photo, ["white", "red"], seed=1, steps=3)
    assert all(after[color].tobytes() == before[color].tobytes() for color in before)


@torch.inference_mode()
def test_a_compiled_stage_that_fails_is_dropped_and_the_picture_is_made(caplog):
    def broken(*given):
        raise RuntimeError("illegal instruction")

    pipeline = Pipeline(nano_model(), {"red": nano_adaptor("red")})
    photo = Image.new("RGB", (40, 30), (120, 90, 60))
    before = pipeline.relight(photo, ["red"], seed=1, steps=1)
    pipeline._compiled = dict.fromkeys([("decoder", 1), ("features", 1), ("hint", 1)], broken)
    after = pipeline.relight(photo, ["red"], seed=1, steps=1)
    assert after["red"].tobytes() == before["red"].tobytes() and not pipeline._compiled
    assert caplog.text.count("is not used any more") == 3


# -- ahead of time, by real processes


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


def test_a_description_is_the_same_for_the_same_architecture_and_holds_no_numbers():
    described = [describe(Part(Toy(seed), "encode", (images(2),))) for seed in (0, 1)]
    assert described[0] == described[1]
    assert described[0] != describe(Part(Toy(), "encode", (images(3),)))
    assert described[0] != describe(Part(Toy(), "encode", (images(2).contiguous(),)))


def test_weights_that_were_let_go_make_no_difference_to_what_is_compiled():
    described = set()
    for dtype in (torch.float16, torch.float32):  # of a converted file, and of the published ones
        network = Toy()
        network.register_parameter("gone", torch.nn.Parameter(torch.empty(3, dtype=dtype, device="meta")))
        described.add(describe(Part(network, "encode", (images(2),))))
    assert len(described) == 1


DESCRIBES = """
import hashlib, torch
from lumiply.engine.descriptions import describe
from lumiply.engine.compiling import Part
from tests.nano import nano_pipeline

for method in ("correct", "encode", "decode"):
    print(method, hashlib.sha256(describe(Part(nano_pipeline().network, method, (torch.zeros(2),)))).hexdigest())
"""


def test_every_start_describes_a_model_alike_and_so_finds_what_was_kept():
    said = set()
    for seed in ("1", "2", "3", "4"):  # of the order of strings in sets
        environ = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        ran = subprocess.run([sys.executable, "-c", DESCRIBES], capture_output=True, text=True, env=environ)
        assert ran.returncode == 0 and ran.stdout.count("code") == 2, ran.stderr
        said.add(ran.stdout)
    assert len(said) == 1


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


def test_a_batch_of_one_fits_however_its_first_stride_reads():
    layout = Layout.of(torch.zeros(1, 4, 2, 2))
    given = torch.zeros(3, 4, 2, 2)[:1].as_strided((1, 4, 2, 2), (99, 4, 2, 1))
    assert layout.fit(given) is given


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
