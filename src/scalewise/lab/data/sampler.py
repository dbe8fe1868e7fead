"""The order of the images in an epoch; it depends only on (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from scalewise.lab.data.dataset import Request


class EpochSampler(Sampler[list[Request]]):
    """Batches of requests for one epoch, in an order drawn from (seed, epoch).

    Each request has its own augmentation seed, made from (seed, epoch, index). So neither the
    number of workers nor the point where a run was resumed changes the images in a batch.

    Under data parallelism each rank takes every `num_replicas`-th image. With shuffling, images
    from the start of the order are repeated at its end, so that all ranks have equally many
    batches. Without it (evaluation) each image occurs exactly once.

    Args:
        length: number of images.
        batch_size: images per batch and rank.
        shuffle: draw a new order each epoch.
        seed: seed of the order and of the augmentation.
        drop_last: leave out the last batch if it is not full.
        num_replicas: number of ranks.
        rank: rank of this process, from 0.
        mosaic_epochs: number of epochs, from the first, in which images may become collages.

    Attributes:
        epoch: the epoch of the next pass.
        start_batch: number of batches that the next pass skips without loading anything, to resume
            inside an epoch. It becomes 0 when that pass begins. `len` still counts all batches.

    Raises:
        ValueError: `batch_size` or `rank` is out of range, or there is no batch to train on.

    Examples:
        >>> from scalewise.data import EpochSampler
        >>> sampler = EpochSampler(length=5, batch_size=2, shuffle=False)
        >>> [[request.item for request in batch] for batch in sampler]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
        mosaic_epochs: int = 0,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < num_replicas:
            raise ValueError(
                f"needs batch_size >= 1 and 0 <= rank < num_replicas, got {batch_size}, "
                f"{rank} and {num_replicas}"
            )
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.drop_last, self.num_replicas, self.rank = drop_last, num_replicas, rank
        self.mosaic_epochs = mosaic_epochs
        self.epoch = 0
        self.start_batch = 0
        if len(self) == 0 and shuffle:
            raise ValueError(
                f"no batch: {length} images on {num_replicas} rank(s) do not fill one of "
                f"{batch_size}; lower the batch size or set drop_last=False"
            )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        own = self._share()
        return own // self.batch_size if self.drop_last else -(-own // self.batch_size)

    def __iter__(self) -> Iterator[list[Request]]:
        # read at the first batch: a loader with workers also makes an iterator that it never uses
        start, self.start_batch, epoch = self.start_batch, 0, self.epoch
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
            order = np.resize(order, self._share() * self.num_replicas)
        own = order[self.rank :: self.num_replicas]
        mosaic = epoch < self.mosaic_epochs
        for batch in range(start, len(self)):
            first = batch * self.batch_size
            indices = (int(index) for index in own[first : first + self.batch_size])
            yield [Request(index, self._item_seed(epoch, index), mosaic) for index in indices]

    def _share(self) -> int:
        """Return the number of images of this rank."""
        if self.shuffle:
            return -(-self.length // self.num_replicas)
        return len(range(self.rank, self.length, self.num_replicas))

    def _item_seed(self, epoch: int, index: int) -> int:
        sequence = np.random.SeedSequence([self.seed, epoch, index])
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
