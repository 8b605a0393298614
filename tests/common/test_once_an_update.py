"""What a forward moves, once for all micro-batches of an update."""

import torch
from torch import Tensor, nn

from imtok.common.once_an_update import MovesOnceAnUpdate, parts_that_move


class Mean(MovesOnceAnUpdate, nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.moves, self.seen = nn.Buffer(torch.zeros(())), 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.once_an_update(self._move, x.detach())
        self.once_an_update(self._count, x, x)
        return x - self.mean

    def _move(self, x: Tensor) -> None:
        self.mean.lerp_(x.mean(), 0.5)
        self.moves += 1

    def _count(self, x: Tensor, same: Tensor) -> None:
        assert torch.equal(x, same)
        self.seen += len(x)


def test_micro_batches_are_joined_in_their_order() -> None:
    joined, apart = Mean(), nn.Sequential(Mean(), nn.Linear(1, 1))
    x = torch.arange(12.0)[:, None]
    (part,) = parts_that_move(apart, None, nn.Linear(2, 2))
    assert part is apart[0]
    for update in range(3):
        joined(x + update)
        part.begin_update()
        for micro_batch in (x + update).split(4):
            before = part.mean.clone()
            apart[0](micro_batch)
            assert torch.equal(part.mean, before), "not before the update ends"
        part.finish_update()
        assert torch.equal(part.mean, joined.mean) and part.moves == joined.moves == update + 1
    assert part.seen == joined.seen == 36


def test_elsewhere_it_moves_in_the_forward() -> None:
    part = Mean()
    part.finish_update()  # nothing was begun, nothing is left over
    part(torch.ones(2, 1))
    assert float(part.mean) == 0.5 and part.moves == 1
    part.begin_update()
    part(torch.ones(2, 1))
    part.begin_update()  # an update that was not finished is forgotten
    part.finish_update()
    assert float(part.mean) == 0.5 and part.seen == 2
    assert set(part.state_dict()) == {"mean"}
