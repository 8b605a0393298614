"""Which image is sample number s, and with what random numbers: pure functions of (seed, s), so resume is exact."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch.utils.data import Sampler

_MASK = (1 << 64) - 1


def mixed(*numbers: int) -> int:
    """A well-spread 63-bit number of several integers (the finaliser of SplitMix64, chained)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state = (state ^ (state >> 31)) + 0x9E3779B97F4A7C15 & _MASK
    return state >> 1


class EpochOrder:
    """Sample number to image index: each epoch of `length` samples is a permutation of its own."""

    def __init__(self, *, length: int, seed: int):
        assert length > 0
        self.length, self.seed = length, seed
        self._permutation = lru_cache(maxsize=2)(self._draw)  # a batch may span two epochs

    def _draw(self, epoch: int) -> torch.Tensor:
        return torch.randperm(self.length, generator=torch.Generator().manual_seed(mixed(self.seed, 1, epoch)))

    def __getitem__(self, sample: int) -> int:
        epoch, place = divmod(sample, self.length)
        return int(self._permutation(epoch)[place])


class TrainBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (sample number, image index) for one of `world_size` processes.

    A micro-batch of all processes is a stretch of sample numbers, and a process's part a stretch of it: one process
    with two micro-batches and two processes with one see the same images in an update, and the same groups of them.
    """

    def __init__(
        self,
        *,
        order: EpochOrder,
        start_sample: int,
        num_batches: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        repeat: int = 0,
    ):
        """batch_size: of one process. repeat: go through this many batches over and over; 0: through the epochs."""
        assert start_sample >= 0 and num_batches >= 0 and 0 <= rank < world_size
        self.order, self.start_sample, self.num_batches, self.batch_size = order, start_sample, num_batches, batch_size
        self.rank, self.world_size, self.repeat = rank, world_size, repeat

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        together = self.batch_size * self.world_size
        for batch in range(self.num_batches):
            first = self.start_sample + batch * together
            if self.repeat:
                first %= self.repeat * together
            first += self.rank * self.batch_size
            yield [(sample, self.order[sample]) for sample in range(first, first + self.batch_size)]
