"""Photo pairs in batches, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader

from lumiply.colors import in_palette_order
from lumiply.errors import UserError
from lumiply.training.photos import LAYOUT, SPLITS, PhotoPairs, PhotoSample, PhotoSet


class PhotoBatches:
    """Batches of one pass over photo pairs; each time it is iterated, of the pass that `epoch` then says.

    A pass shuffles all pairs if `shuffle`; its last batch may be smaller.
    """

    def __init__(
        self,
        pairs: PhotoPairs,
        batch: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        workers: int = 0,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.pairs, self.batch, self.seed, self.shuffle = pairs, batch, seed, shuffle
        self.workers, self.epoch = workers, epoch

    def __len__(self) -> int:
        return -(-len(self.pairs) // self.batch)

    def order(self, epoch: int) -> list[int]:
        """Indices of the pairs in the order of a pass."""
        count = len(self.pairs)
        if not self.shuffle:
            return list(range(count))
        return np.random.default_rng((self.seed, epoch)).permutation(count).tolist()

    def __iter__(self) -> Iterator[PhotoSample]:
        # a generator: nothing is drawn before the first batch is asked for, when the epoch is settled
        epoch = self.epoch()
        self.pairs.set_epoch(epoch)
        order = self.order(epoch)
        yield from DataLoader(
            self.pairs,
            batch_sampler=[order[start : start + self.batch] for start in range(0, len(order), self.batch)],
            num_workers=self.workers,
            generator=torch.Generator(),  # else the loader would draw from the global one
        )


def pairs_of(
    photos: PhotoSet, size: int, colors: Collection[str], *, flip: bool = False, seed: int = 0
) -> tuple[PhotoPairs, PhotoPairs]:
    """Training and validation pairs lit in `colors`, each of which both sides must hold.

    Raises:
        UserError: a split has no scene lit in one of the colours.
    """
    for split in SPLITS:
        for color in in_palette_order(colors):
            if not any(color in scene.lit for scene in photos.split(split)):
                name = "on (or white)" if color == "white" else color
                raise UserError(
                    f"{photos.root / split}: none of its {len(photos.split(split))} scenes has a photo {name}, "
                    f"which this training needs on both sides of the split. {LAYOUT}"
                )
    train, validation = (photos.split(split) for split in SPLITS)
    return (
        PhotoPairs(train, size, colors=colors, flip=flip, seed=seed),
        PhotoPairs(validation, size, colors=colors),
    )


def digest(pairs: PhotoPairs) -> str:
    """16 hexadecimal digits that change when the pairs, their size in pixels or their files' sizes do."""
    rows = [
        [scene.name, color, *([path.name, path.stat().st_size] for path in (scene.off, scene.lit[color]))]
        for scene, color in pairs.pairs
    ]
    return hashlib.sha256(json.dumps([pairs.size, rows]).encode()).hexdigest()[:16]
