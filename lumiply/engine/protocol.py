"""What a server needs of an engine, whoever runs the model: this process, or a cluster (DESIGN.md, rule 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, runtime_checkable

from PIL import Image

from lumiply.colors import COLORS
from lumiply.errors import UserError

#: `torch.Generator.manual_seed` takes no larger one.
LARGEST_SEED: Final = 2**63 - 1
#: Denoising steps of a render: as many as the schedule has timesteps.
MOST_STEPS: Final = 1000
#: The seed of a request that names none. Any fixed number will do: the same photo then gives the same result.
DEFAULT_SEED: Final = 42

Stage = Literal["queued", "prepare", "denoise", "decode", "done"]


@dataclass(frozen=True)
class Progress:
    """How far a render is: `step` of `steps` in `stage` (steps count from 0 to `steps`)."""

    stage: Stage
    step: int
    steps: int

    @property
    def fraction(self) -> float:
        """Share of the whole render, 0 to 1; denoising counts for most of it."""
        start, length = {
            "queued": (0.0, 0.0),
            "prepare": (0.0, 0.1),
            "denoise": (0.1, 0.7),
            "decode": (0.8, 0.2),
            "done": (1.0, 0.0),
        }[self.stage]
        return start + length * (self.step / self.steps if self.steps else 0.0)


ProgressCallback = Callable[[Progress], None]


def renders_at_once(batch: int) -> int:
    """Renders of all colours in a batch of so many pictures."""
    return max(1, batch // len(COLORS))


def pictures_ahead(batch: int) -> int:
    """Half as many pictures again as a batch holds: so many keep an engine from waiting and make its batches wide."""
    return batch + (batch + 1) // 2


def renders_ahead(batch: int) -> int:
    """Renders of all colours that fill one and a half such batches; one more than run at least."""
    return max(renders_at_once(batch) + 1, -(-pictures_ahead(batch) // len(COLORS)))


@dataclass(frozen=True)
class EngineInfo:
    """What an engine runs, for people and for the name of a result.

    Attributes:
        model: short name, such as "lumiply-mini".
        weights: what the weights are and where they came from, one sentence.
        fingerprint: changes whenever the same request would give another picture.
        device: "cpu", "cuda:0 (NVIDIA H200)", ...
        precision: "float32", "float16", "bfloat16", or more than one, as "float32, decoded in bfloat16".
        image_size: pixels on a side at which the model works.
        steps: denoising steps of a render that names none.
        colors: what can be asked for: the seven, less those whose adaptor was not there.
        parallel: renders that it works on at the same time.
        ahead: renders that a server keeps it ahead (`has_room`); 0: as many as `parallel`, and one more.
        batch: pictures, one a colour, that it denoises at the same time, so that more of small renders are kept
            ahead; 0: it counts renders alone.
        presets: names that `Engine.submit` takes as `preset`, with the denoising steps of each; empty: it takes none.
    """

    model: str
    weights: str
    fingerprint: str
    device: str
    precision: str
    image_size: int
    steps: int
    colors: tuple[str, ...] = COLORS
    parallel: int = 1
    ahead: int = 0
    batch: int = 0
    presets: Mapping[str, int] = field(default_factory=dict)

    @property
    def most_ahead(self) -> int:
        """Renders of all colours that a server keeps it ahead."""
        return self.ahead or max(self.parallel + 1, renders_ahead(self.batch))

    def has_room(self, renders: int, pictures: int) -> bool:
        """Whether a server that has given it `renders` of so many `pictures` should give it another."""
        return renders < self.most_ahead or pictures < pictures_ahead(self.batch)

    @property
    def summary(self) -> str:
        """Which model runs where and how, for a person."""
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        return f"{self.model} on {self.device}, {self.precision}, {steps}"


def require_seed(seed: int) -> None:
    """Refuse a seed that no generator takes.

    Raises:
        UserError: it is not from 0 to `LARGEST_SEED`.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"the seed must be from 0 to {LARGEST_SEED}, got {seed}")


@runtime_checkable
class Engine(Protocol):
    """Relights a photo in some colours, with progress.

    Optional, looked for by servers: attributes `alive`, false once its worker has died, and `closed`, true from
    `close()` on; and, where `info.presets` names some, a keyword `preset` of `submit`.
    """

    @property
    def info(self) -> EngineInfo:
        """What runs here. Cheap; callable while a render runs."""
        ...

    @property
    def queue_length(self) -> int:
        """Renders accepted and not yet finished."""
        ...

    def submit(
        self,
        photo: Image.Image,
        colors: Sequence[str],
        *,
        seed: int = DEFAULT_SEED,
        steps: int | None = None,
        preset: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Future[dict[str, Image.Image]]:
        """Queue a render and return at once.

        Args:
            photo: an RGB picture of any size, already turned upright.
            colors: some of `lumiply.colors.COLORS`.
            seed: of the noise; the same request with the same seed gives the same picture.
            steps: denoising steps, or None for the preset's, else the engine's own number.
            preset: "exact", "balanced" or "fast", or None for the engine's own sampler.
            progress: called from the engine's thread; an exception in it ends the render.

        Returns:
            A future of one RGB picture a colour, each of the photo's size. Cancelling it stops the render.

        Raises:
            UnknownColorError: a colour is none of the seven.
            UserError: `colors` is empty, `preset` is none of these, or `steps` is out of range.
            BusyError: the queue is full.
            EngineClosedError: after `close()`.
        """
        ...

    def close(self, timeout: float | None = None) -> None:
        """Refuse new renders, end the queue within `timeout` seconds, free the device. Safe to call twice."""
        ...
