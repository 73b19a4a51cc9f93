"""What a request asks for, and what that means for the engine that is there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from lumiply.engine.protocol import EngineInfo
from lumiply.errors import InvalidFieldError
from lumiply.server.record import Recipe
from lumiply.settings import Settings


@dataclass(frozen=True)
class Order:
    """What a request asks for.

    Attributes:
        upload: the photo's file, not yet decoded.
        colors: what the answer must hold.
        only: render no other colours; else all that the engine has, because they will be asked for next.
        seed, steps, preset: None for the server's own.
    """

    job_id: str
    upload: bytes
    colors: tuple[str, ...]
    only: bool = False
    seed: int | None = None
    steps: int | None = None
    preset: str | None = None

    @cached_property
    def photo(self) -> str:
        """SHA-256 of the upload, hexadecimal."""
        return hashlib.sha256(self.upload).hexdigest()

    def steps_asked(self, settings: Settings) -> int | None:
        """Denoising steps; None if the engine is to say."""
        return self.steps or (None if self.preset else settings.steps)

    def is_like(self, other: Order) -> bool:
        """Whether both ask for the same, but for the colours and the job."""
        return (self.photo, self.seed, self.steps, self.preset) == (
            other.photo,
            other.seed,
            other.steps,
            other.preset,
        )

    def may_mean(self, recipe: Recipe, settings: Settings) -> bool:
        """Whether `plan` may come to `recipe`, as far as that can be told without an engine."""
        steps = self.steps_asked(settings)
        return (
            recipe.photo == self.photo
            and recipe.seed == self._seed(settings)
            and recipe.preset == (self.preset or "")
            and recipe.jpeg_quality == settings.jpeg_quality
            and steps in (None, recipe.steps)
        )

    def plan(self, info: EngineInfo, settings: Settings) -> tuple[Recipe, tuple[str, ...]]:
        """The recipe, and the colours to render by it.

        Raises:
            InvalidFieldError: the engine has no such preset.
        """
        recipe = Recipe(
            photo=self.photo,
            seed=self._seed(settings),
            steps=self._steps(info, settings),
            preset=self.preset or "",
            jpeg_quality=settings.jpeg_quality,
            engine=info.fingerprint,
        )
        loaded = info.colors  # fewer where adaptors are missing
        if self.only or not set(self.colors) <= set(
            loaded
        ):  # those alone, so that the engine can say why not
            return recipe, self.colors
        return recipe, loaded

    def _seed(self, settings: Settings) -> int:
        return settings.seed if self.seed is None else self.seed

    def _steps(self, info: EngineInfo, settings: Settings) -> int:
        if self.preset and self.preset not in info.presets:
            known = ", ".join(info.presets)
            raise InvalidFieldError("preset", self.preset, f"쓸 수 있는 값: {known or '없음'}.", known=known)
        by_preset = info.presets[self.preset] if self.preset else None
        return self.steps or by_preset or settings.steps or info.steps
