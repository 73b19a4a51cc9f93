"""One form of the denoising step or of the decoder, compiled and timed in a process of its own.

    python -m benchmarks.variants "side by side" --size 7 --out FILE.json --lock FILE

Several such processes compile at once; what runs on the GPU, runs while the lock is held. Weights are random. The
file is written after every figure: compilation, milliseconds launched and captured, error against the plain network
in the same precision, and which kernels take the time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.exclusive import Exclusive
from benchmarks.measure import Results, machine, peak_memory, seconds, synchronize
from cldm import ControlLDM, ControlLDMParams, StepNetwork
from ldm.layers import GroupNorm, Upsample
from lumiply.engine.side_by_side import SideBySide
from lumiply.engine.stepper import CudaCapture
from modi_vae import BypassAutoencoder, MergedFeatures

Function = Callable[..., Tensor]
#: Holds what `prefer_attention` chose: until it is closed, which it never is.
PREFERENCE: Final = ExitStack()


@dataclass(frozen=True)
class Form:
    """What differs from the plain way of compiling.

    Attributes:
        decoder: the bypass decoder for one picture, not the step.
        compiled: False: launched as it stands.
        side_by_side: ControlNet and the UNet's first half on two streams.
        norm_by_group: group norm as torch decomposes it.
        doubling_packed: the UNet's doublings as transposed convolutions.
        inductor: settings of the compiler.
        alone: compiling itself times kernels, so nothing else may run meanwhile.
    """

    decoder: bool = False
    compiled: bool = True
    side_by_side: bool = False
    norm_by_group: bool = False
    doubling_packed: bool = False
    inductor: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False


FORMS: Final[dict[str, Form]] = {
    "eager": Form(compiled=False),
    "eager, side by side": Form(compiled=False, side_by_side=True),
    "whole": Form(),
    "side by side": Form(side_by_side=True),
    "norm by group": Form(norm_by_group=True),
    "doubling packed": Form(doubling_packed=True),
    "kernels tuned": Form(inductor={"coordinate_descent_tuning": True}),
    "products tuned": Form(
        inductor={"max_autotune_gemm": True, "max_autotune_gemm_backends": "ATEN,TRITON"}, alone=True
    ),
    "decoder": Form(decoder=True),
    "decoder, eager": Form(decoder=True, compiled=False),
    "decoder, norm by group": Form(decoder=True, norm_by_group=True),
}

#: Words in the names of kernels, and what these do; the first that fits counts.
KINDS: Final = (
    ("fused by the compiler", ("triton",)),
    ("layout copies", ("nchwtonhwc", "nhwctonchw", "transpose")),
    ("attention", ("flash", "fmha", "sdpa", "attention")),
    ("convolution", ("conv", "fprop", "dgrad", "cudnn")),
    ("matrix product", ("gemm", "nvjet", "cutlass", "cublas", "splitk")),
    ("norm", ("norm", "moments")),
    ("copy", ("copy", "memcpy", "cat", "memset")),
)


def random_model(params: ControlLDMParams, device: torch.device, dtype: torch.dtype) -> ControlLDM:
    """Networks and first stage on `device`, channels last, with random weights; text tower and prior have none."""
    with torch.device("meta"):
        model = ControlLDM(params)
        model.use_bypass_first_stage()
    control = [part for name, part in model.control_model.named_children() if name != "prior_extracter"]
    generator = torch.Generator(device).manual_seed(0)
    for part in (model.model, *control, model.first_stage_model):
        part.to_empty(device=device)
        part.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, value in part.named_parameters():
            scale = value[0].numel() ** -0.5 if value.dim() > 1 else 0.02
            value.data.normal_(0.0, scale, generator=generator)
            if value.dim() == 1 and name.endswith("weight"):
                value.data.add_(1.0)
    return model.eval().requires_grad_(False)


def channels_last(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)


def step_inputs(network: StepNetwork, params: ControlLDMParams, size: int) -> tuple[Tensor, ...]:
    """x, t, hint features, keys and values of `size` pictures."""
    device, dtype, side = network.shift_table.device, network.shift_table.dtype, params.image_size
    tokens = params.text.context_length + params.control.intrinsics.light_tokens
    context = torch.randn(size, tokens, params.unet.context_dim, device=device).to(dtype)
    return (
        channels_last(size, params.channels, side, side, device=device),
        torch.full((size,), 481, dtype=torch.long, device=device),
        channels_last(size, params.unet.model_channels, side, side, device=device, dtype=dtype),
        network.keys_values(context),
    )


class Compiler:
    """torch.compile that holds the lock from the moment the code is there until it has run for the first time."""

    def __init__(self, lock: Exclusive, device: torch.device, backend: str) -> None:
        self._lock, self._device, self._backend = lock, device, backend

    def __call__(self, function: Function) -> Function:
        def generate(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
            if self._backend == "eager":
                code: Callable[..., Any] = graph.forward
            else:
                from torch._inductor.compile_fx import compile_fx

                code = compile_fx(graph, example)
            self._lock.acquire()  # the first run tries several launch configurations of every kernel
            return code

        compiled = torch.compile(function, backend=generate, fullgraph=True, dynamic=False)
        ran = False

        def run(*inputs: Any) -> Tensor:
            nonlocal ran
            result = compiled(*inputs)
            if not ran:
                synchronize(self._device)
                self._lock.release()
                ran = True
            return result

        return run


class Trial:
    """One form, from compilation to figures."""

    def __init__(self, form: Form, given: argparse.Namespace, results: Results, lock: Exclusive) -> None:
        self.form, self.results, self.repeats = form, results, given.repeats
        self.device, self.lock = torch.device(given.device), lock
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.params = params_of(given.model)
        self.compiler = Compiler(self.lock, self.device, given.backend)
        self.size = given.size
        self.build()

    def build(self) -> None:
        """Model, inputs, what the plain network makes of them, and the function that is measured."""
        model = random_model(self.params, self.device, self.dtype)
        compile = self.compiler if self.form.compiled else (lambda function: function)
        if self.form.decoder:
            stage = model.first_stage_model
            assert isinstance(stage, BypassAutoencoder)
            for layer in stage.decoder.modules():
                if isinstance(layer, Upsample):
                    layer.pack()

            def decode(z: Tensor, image: Tensor, *levels: Tensor) -> Tensor:
                return stage.decode(z, MergedFeatures(image, levels))

            side = self.params.picture_size
            picture = channels_last(1, 3, side, side, device=self.device, dtype=self.dtype).clamp(-1, 1)
            merged = stage.merge(stage.bypass_features(picture))
            latent = (self.size, self.params.channels, self.params.image_size, self.params.image_size)
            z = channels_last(*latent, device=self.device, dtype=self.dtype)
            shared = merged.expand(self.size)
            self.inputs: tuple[Tensor, ...] = (z, shared.image, *shared.levels)
            self.reference = decode(*self.inputs)
            self.function = compile(decode)
            return
        network = StepNetwork(model)
        self.inputs = step_inputs(network, self.params, self.size)
        self.reference = network(*self.inputs)
        if self.form.doubling_packed:
            for layer in network.unet.modules():
                if isinstance(layer, Upsample):
                    layer.pack()
        if self.form.side_by_side:
            stream = torch.cuda.Stream() if self.device.type == "cuda" else None
            self.function = SideBySide(network, compile, stream=stream)
        else:
            self.function = compile(network)

    def run(self) -> None:
        if self.form.norm_by_group:
            GroupNorm.forward = nn.GroupNorm.forward  # type: ignore[method-assign, assignment]
        if self.form.alone:
            self.lock.acquire()
        for name, value in self.form.inductor.items():
            from torch._inductor import config

            setattr(config, name, value)
        began = time.perf_counter()
        result = self.function(*self.inputs)
        synchronize(self.device)
        self.results.put("compile_s", time.perf_counter() - began if self.form.compiled else 0.0)
        error = (result - self.reference).norm() / self.reference.norm()
        self.results.put("relative_error", float(error))
        with self.lock:
            self.measure("launched", self.function)
            self.measure("captured", self.captured())
            self.results.put("kernels", kernels(lambda: self.function(*self.inputs), self.device))
            torch.backends.cudnn.benchmark = True
            self.measure("captured, cudnn chose by trial", self.captured())
        self.results.put("ended", True)

    def captured(self) -> Function:
        capture = CudaCapture() if self.device.type == "cuda" else (lambda run: run)
        replay = capture(lambda: self.function(*self.inputs))
        return lambda *_: replay()

    def measure(self, name: str, function: Function) -> None:
        with peak_memory(self.device) as memory:
            time_s = seconds(lambda: function(*self.inputs), self.device, self.repeats, warm_up=3)
        self.results.put(name, {"ms": time_s["median"] * 1e3, "min_ms": time_s["min"] * 1e3, **memory})


def kernels(function: Callable[[], Any], device: torch.device, runs: int = 3) -> dict[str, Any]:
    """Milliseconds a run by kind of kernel, and the longest kernels themselves."""
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        for _ in range(runs):
            function()
        synchronize(device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = []
    for event in seen.key_averages():
        if event.device_type == wanted:
            spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            found.append((spent / 1e3 / runs, event.count / runs, event.key))
    kinds: dict[str, list[float]] = {}
    for ms, count, name in found:
        total = kinds.setdefault(kind_of(name), [0.0, 0.0])
        total[0], total[1] = total[0] + ms, total[1] + count
    return {
        "by_kind": {kind: {"ms": ms, "kernels": count} for kind, (ms, count) in kinds.items()},
        "longest": [{"ms": ms, "runs": n, "name": name[:110]} for ms, n, name in sorted(found)[:-26:-1]],
    }


def kind_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, words in KINDS if any(word in lower for word in words)), "other")


def params_of(model: str) -> ControlLDMParams:
    """Sizes of the full model, or of the toy that shows whether all this runs."""
    if model == "nano":
        from tests.nano import NANO

        return NANO
    return ControlLDMParams()


def prefer_attention(backend: str) -> None:
    """From now on, in this process, attention is computed by `backend` wherever that can."""
    others = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
    first = SDPBackend.__members__[backend]
    order = [first, *(other for other in others if other != first)]
    PREFERENCE.enter_context(sdpa_kernel(order, set_priority=True))


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("--size", type=int, default=7, help="pictures at once")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lock", type=Path, required=True, help="file that all processes on one GPU name")
    parser.add_argument("--model", default="full", choices=("full", "nano"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--attention", help="a name of SDPBackend; by default torch chooses")
    parser.add_argument(
        "--backend", default="inductor", choices=("inductor", "eager"), help="eager: trace only"
    )
    given = parser.parse_args(arguments)
    results = Results(
        given.out, {**machine(torch.device(given.device)), "form": given.form, "size": given.size}
    )
    try:
        if given.attention:
            prefer_attention(given.attention)
        with closing(Exclusive(given.lock)) as lock:
            Trial(FORMS[given.form], given, results, lock).run()
    except Exception as error:
        results.put("failed", f"{type(error).__name__}: {error}"[:3000])
        raise


if __name__ == "__main__":
    os.setpgrp()  # whoever started this ends its compiler's processes with it
    main()
    os._exit(0)  # the compiler's own processes are not waited for
