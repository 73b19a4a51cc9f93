"""Training the embedded mini model from nothing: autoencoder, base model, refinement, adaptors, in this order."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from cldm import ControlLDM
from lumiply.colors import BASE_COLOR, COLORS
from lumiply.config import config_path, load_config
from lumiply.synth.render import Renderer
from lumiply.synth.stream import RendersRooms, render_to_folder
from lumiply.training.averaging import Averaging
from lumiply.training.pairs import PairBatch, PairDataset, PairOptions, draw_pairs, seven_colors
from lumiply.training.pool import RoomPool
from lumiply.training.renderers import RoomOrder
from lumiply.training.run import SaveEvery, run_stage
from lumiply.training.stage_base import Budget, Stage
from lumiply.training.stages import (
    AdaptorStage,
    AutoencoderStage,
    BaseStage,
    Objective,
    whiten_latents,
)
from lumiply.weights import Adaptor, read_state, save_adaptor, save_state
from modi_vae import BypassAutoencoder

log = logging.getLogger(__name__)

STAGES: Final = ("autoencoder", "base", "refine", "adaptors")
MODEL_FILE: Final = "lumiply_mini.safetensors"
VALIDATION_SEED: Final = 7
#: Share of the autoencoder's budget that is spent on crops.
CROPPED_SHARE: Final = 0.6
#: Of the average over the refinement's weights: as if of the last 500 steps.
REFINED_DECAY: Final = 0.998
#: Pairs that the diffusion stages learn from: half of them show part of the room.
VARIED: Final = PairOptions(zoomed=0.5)


@dataclass(frozen=True)
class MiniPlan:
    """How the mini model is trained.

    Attributes:
        rooms: folder of rendered rooms for training; may still be growing.
        validation: folder of rendered rooms that training never sees.
        out: folder that receives the weights and the logs; a stage starts from what is there.
        minutes: limit of each stage; steps: likewise.
        wait: seconds to wait for the first rooms.
        compiled: let torch.compile fuse the diffusion stages; worth it for runs of more than a few minutes.
        blend: share of the weights that the refinement ends with; the rest are those that it began with. A mean of
            both generalises better than either where a stage was short or its rooms were few (arXiv 2203.05482).
    """

    rooms: Path
    validation: Path
    out: Path
    minutes: dict[str, float]
    steps: dict[str, int]
    batch: dict[str, int]
    least_rooms: int = 256
    most_rooms: int = 12000
    validation_rooms: int = 64
    wait: float = 0.0
    seed: int = 0
    compiled: bool = False
    blend: float = 1.0
    device: str = "cuda"
    precision: str = "bf16-mixed"


def new_renderer(plan: MiniPlan, samples: int) -> Renderer:
    """A renderer of rooms of the mini model's size; it starts Mitsuba when it renders first."""
    return Renderer(size=load_config(config_path("mini")).picture_size, samples=samples)


def room_orders(plan: MiniPlan, count: int, samples: int, first: int = 0) -> list[RoomOrder]:
    """The validation rooms, then `count` training rooms from the seed `first` on, for processes that render."""
    size = load_config(config_path("mini")).picture_size
    return [
        RoomOrder(plan.validation, "validation", plan.validation_rooms, samples, size),
        RoomOrder(plan.rooms, "train", count, samples, size, first),
    ]


def render_rooms(
    plan: MiniPlan, count: int, make_renderer: Callable[[], RendersRooms], first: int = 0
) -> None:
    """Render `count` training rooms and the validation rooms into the plan's folders, where they are missing.

    Before training rather than beside it: on a GPU without ray-tracing cores each takes the other's share.

    Raises:
        RendererUnavailable: Mitsuba is missing or does not start here.
    """
    renderer = make_renderer()
    render_to_folder(plan.validation, range(plan.validation_rooms), "validation", renderer)
    render_to_folder(plan.rooms, range(first, first + count), "train", renderer)


class MiniTraining:
    """The stages over one pool of rooms and one model."""

    def __init__(self, plan: MiniPlan, check: Callable[[], None] | None = None) -> None:
        """`check` is asked while it waits for rooms, and may raise what makes waiting vain."""
        pl.seed_everything(plan.seed)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        self.plan = plan
        params = load_config(config_path("mini"))
        self.model = ControlLDM(params)
        self.model.use_bypass_first_stage()
        size = params.picture_size
        plan.out.mkdir(parents=True, exist_ok=True)
        if (plan.out / MODEL_FILE).exists():
            self.model.load_state_dict(read_state(plan.out / MODEL_FILE))
            log.info("went on from %s", plan.out / MODEL_FILE)
        self.model.to(plan.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pool = RoomPool(plan.rooms, capacity=plan.most_rooms, size=size, device=plan.device)
        self.held_out = RoomPool(
            plan.validation, capacity=plan.validation_rooms, size=size, device=plan.device
        )
        self.pool.wait_for(plan.least_rooms, timeout=plan.wait, check=check)
        self.held_out.wait_for(plan.validation_rooms, timeout=plan.wait, check=check)

    def autoencoder(self) -> None:
        """Train the bypass autoencoder, then whiten its latents."""
        first_stage = self.first_stage
        # the latent must be able to hold any strength, not just that of a lamp
        options = PairOptions(strength=(0.3, 1.3))
        # crops teach most of it at a quarter of the cost; whole pictures then settle norms and attention
        crop = self.model.params.picture_size // 2
        stages = [(CROPPED_SHARE, 1e-3, crop), (1.0 - CROPPED_SHARE, 4e-4, None)]
        for share, learning_rate, side in stages:
            stage = AutoencoderStage(
                first_stage,
                self.budget("autoencoder", share),
                learning_rate=learning_rate,
                scale_factor=self.model.params.scale_factor,
            )
            self.fit(stage, "autoencoder", replace(options, crop=side))
        first_stage.to(self.plan.device)
        whiten_latents(first_stage, list(self.validation_batches(4)), self.model.params.scale_factor)
        self.save_model()

    def base(self) -> None:
        """Train everything but the first stage to predict lit latents."""
        objective = Objective(last_share=0.75, compiled=self.plan.compiled)
        self.fit(BaseStage(self.model, self.budget("base"), objective=objective), "base", VARIED)
        self.save_model()

    def refine(self) -> None:
        """Train everything but the first stage's encoder on the pictures that come out.

        From a base model that already follows the light: from nothing, the decoder learns to brighten every photo
        alike, and leaves the latent with its colour unused. What is saved, at the end and meanwhile, is an average of
        the last weights: those of a moment are worse while the learning rate is high.
        """
        objective = Objective(pictures=True, last_share=0.875, compiled=self.plan.compiled)
        stage = BaseStage(self.model, self.budget("refine"), learning_rate=3e-4, objective=objective)
        before = half(self.model.state_dict())
        average = Averaging(REFINED_DECAY)
        self.fit(stage, "refine", VARIED, average=average)
        average.adopt(stage)
        self.model.load_state_dict(blended(before, half(self.model.state_dict()), self.plan.blend))
        self.save_model()

    def adaptors(self) -> None:
        """Train one adaptor a colour, for all colours but white, on the frozen base model."""
        names = [color for color in COLORS if color != BASE_COLOR]
        colors = seven_colors(self.plan.device)[[COLORS.index(name) for name in names]]
        self.model.to(self.plan.device)
        objective = Objective(pictures=True, last_share=1.0, compiled=self.plan.compiled)
        stage = AdaptorStage(self.model, colors, self.budget("adaptors"), objective=objective)
        stage.to(self.plan.device)
        log.info("adaptors start at an imitation loss of %.2e", stage.imitate_base(1000))
        self.fit(stage, "adaptors", PairOptions(colors_per_batch=len(names), free_colors=0.0), fixed=colors)
        for name, encoder, decoder in zip(names, stage.encoders, stage.decoders, strict=True):
            adaptor = Adaptor(half(encoder.state_dict()), half(decoder.state_dict()))
            save_adaptor(self.plan.out / f"adaptor_{name}.safetensors", adaptor)

    @property
    def first_stage(self) -> BypassAutoencoder:
        first_stage = self.model.first_stage_model
        assert isinstance(first_stage, BypassAutoencoder)
        return first_stage

    def budget(self, stage: str, share: float = 1.0) -> Budget:
        return Budget(max(1, round(self.plan.steps[stage] * share)), self.plan.minutes[stage] * 60 * share)

    def fit(
        self,
        stage: Stage,
        name: str,
        options: PairOptions,
        fixed: Tensor | None = None,
        average: Averaging | None = None,
    ) -> None:
        plan, began = self.plan, time.monotonic()
        train = PairDataset(
            self.pool, plan.batch[name], seed=plan.seed, options=options, refresh_every=50, fixed_colors=fixed
        )
        whole = replace(options, crop=None, zoomed=0.0)
        check = PairDataset(
            self.held_out, 48, seed=VALIDATION_SEED, options=whole, length=1, fixed_colors=fixed
        )
        callbacks: list[Callback] = [] if average is None else [average]
        if not isinstance(stage, AdaptorStage):
            callbacks.append(SaveEvery(120.0, lambda: self.save_trained(stage, average)))
        run_stage(
            stage,
            train,
            check,
            out=plan.out / "logs",
            accelerator="gpu" if plan.device.startswith("cuda") else "cpu",
            precision=plan.precision,
            callbacks=tuple(callbacks),
        )
        log.info("%s: %.0f s, %d rooms", name, time.monotonic() - began, len(self.pool))

    def validation_batches(self, count: int) -> Iterator[PairBatch]:
        generator = torch.Generator(self.plan.device).manual_seed(VALIDATION_SEED)
        for _ in range(count):
            index = torch.randint(len(self.held_out), (64,), generator=generator, device=self.plan.device)
            yield draw_pairs(self.held_out.layers(index), PairOptions(), generator)

    def save_trained(self, stage: Stage, average: Averaging | None) -> None:
        """Write the model as it is in the middle of a stage."""
        with contextlib.nullcontext() if average is None else average.shown(stage):
            self.save_model()

    def save_model(self) -> None:
        """Write the whole model in half precision, whole or not at all."""
        save_state(self.plan.out / MODEL_FILE, half(self.model.state_dict()), {"format": "pt"})


def blended(before: dict[str, Tensor], after: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights between `before` (a share of 0) and `after` (1), each by name, computed in float32.

    Raises:
        ValueError: the share is not from 0 to 1.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"a share of weights is from 0 to 1, got {share}")
    return {
        name: torch.lerp(value.float(), after[name].float(), share).to(value.dtype)
        for name, value in before.items()
    }


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state in half precision on the CPU, ready to be stored."""
    return {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in state.items()}
