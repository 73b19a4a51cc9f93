"""What of a pipeline is worth compiling: the step at some batch sizes, and the stages before and after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from cldm import StepNetwork
from lumiply.engine.compiling import TOLERANCE, Function, Part, Task
from lumiply.engine.float8 import uses_float8
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.pixels import bypass_picture, hint_picture
from lumiply.engine.side_by_side import SideBySide

#: As `TOLERANCE`, in float8, which rounds two numbers that differ by little to some that differ by an eighth.
FLOAT8_TOLERANCE: Final = 0.05


def compile_tasks(pipeline: Pipeline, sizes: Sequence[int]) -> list[Task]:
    """The most important first: the step at each of `sizes`, and the other stages."""
    steps = [step_task(pipeline, size) for size in sizes]
    hints = [_hint_task(pipeline, size) for size in sizes[:2]]
    first, others = hints[:1], hints[1:]
    return [*steps[:1], _decoder_task(pipeline), *first, _features_task(pipeline), *others, *steps[1:]]


def step_task(pipeline: Pipeline, size: int, network: StepNetwork | None = None) -> Task:
    """Of another network if one is given; ControlNet and UNet apart: a GPU runs them on streams of their own."""
    network, params = network or pipeline.network, pipeline.params

    def inputs() -> tuple[Tensor, ...]:
        return (
            _noise(pipeline, size, params.channels),
            torch.full((size,), pipeline.schedule.timesteps // 2, device=pipeline.device),
            _noise(pipeline, size, params.unet.model_channels, pipeline.dtype),
            pipeline.keys_values[:1].expand(size, -1, -1).contiguous(),
        )

    def correct(given: tuple[Tensor, ...]) -> Part:
        return Part(network, "correct", given)

    def encode(given: tuple[Tensor, ...]) -> Part:
        x, t, _, keys_values = given
        return Part(network, "encode", (x, t, keys_values))

    def decode(given: tuple[Tensor, ...]) -> Part:
        return Part(network, "decode", (encode(given), correct(given), given[1], given[3]))

    def assemble(functions: Sequence[Function]) -> Function:
        on_gpu = pipeline.device.type == "cuda"
        return SideBySide(*functions, stream=torch.cuda.Stream(pipeline.device) if on_gpu else None)

    return Task(
        f"the step of {size} pictures",
        inputs,
        (correct, encode, decode),
        assemble,
        network,
        lambda quick: pipeline.stepper.use(size, quick),
        FLOAT8_TOLERANCE if uses_float8(network) else TOLERANCE,
    )


def _noise(pipeline: Pipeline, batch: int, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Drawn by the processor: where a GPU captures meanwhile, older versions of torch draw nothing on it."""
    side = pipeline.params.image_size
    noise = torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(batch))
    return noise.to(pipeline.device, dtype).contiguous(memory_format=torch.channels_last)


def _hint_task(pipeline: Pipeline, colors: int) -> Task:
    def inputs() -> tuple[Tensor, ...]:
        hint = hint_picture(_example_photo(pipeline), pipeline.picture_size)
        hint = hint.to(pipeline.device, pipeline.dtype).contiguous(memory_format=torch.channels_last)
        return hint, pipeline.palette.codes[:1].to(pipeline.dtype).expand(colors, -1).contiguous()

    name = f"the hint of {colors} colours"
    return _stage_task(pipeline, name, pipeline.hint_stage, "forward", inputs, ("hint", colors))


def _features_task(pipeline: Pipeline) -> Task:
    def inputs() -> tuple[Tensor, ...]:
        picture = bypass_picture(_example_photo(pipeline), pipeline.picture_size)
        picture = picture.to(pipeline.device, pipeline.decode_dtype)
        return (picture.contiguous(memory_format=torch.channels_last),)

    stage = pipeline.picture_stage
    return _stage_task(pipeline, "the photo's features", stage, "features", inputs, ("features", 1))


def _decoder_task(pipeline: Pipeline) -> Task:
    def inputs() -> tuple[Any, ...]:
        features = pipeline.features(_example_photo(pipeline))
        z = _noise(pipeline, 1, pipeline.params.channels, pipeline.decode_dtype)
        return z, features.image, list(features.levels)

    return _stage_task(pipeline, "the decoder", pipeline.picture_stage, "decode", inputs, ("decoder", 1))


def _example_photo(pipeline: Pipeline) -> Image.Image:
    """Noise: a stage that is compiled is compared on it."""
    generator = torch.Generator().manual_seed(0)
    shape = (pipeline.picture_size, pipeline.picture_size, 3)
    return Image.fromarray(torch.randint(256, shape, generator=generator, dtype=torch.uint8).numpy())


def _stage_task(
    pipeline: Pipeline,
    name: str,
    network: torch.nn.Module,
    method: str,
    inputs: Callable[[], tuple[Any, ...]],
    key: tuple[str, int],
) -> Task:
    return Task(
        name,
        inputs,
        (lambda given: Part(network, method, given),),
        lambda functions: functions[0],
        getattr(network, method),
        lambda quick: pipeline.use(key, quick),
    )
