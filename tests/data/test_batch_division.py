"""One update's images over processes and micro-batches: the same images, whatever the number of either."""

import pytest

from imtok.common.errors import UserError
from imtok.data.batch_division import divide_batch
from imtok.data.sampling import EpochOrder, TrainBatches


@pytest.mark.parametrize(
    ("given", "accumulate", "per_device"),
    [
        ({"batch_size": 256}, 1, 256),
        ({"batch_size": 256, "processes": 8}, 1, 32),
        ({"batch_size": 256, "accumulate": 4}, 4, 64),
        ({"batch_size": 256, "accumulate": 4, "processes": 8}, 4, 8),
        ({"batch_size": 256, "batch_per_device": 16}, 16, 16),
        ({"batch_size": 256, "batch_per_device": 16, "processes": 8}, 2, 16),
        ({"batch_size": 256, "batch_per_device": 16, "processes": 8, "accumulate": 2}, 2, 16),
    ],
)
def test_the_shares_make_up_the_batch(given, accumulate, per_device):
    division = divide_batch(**given)
    assert (division.accumulate, division.per_device) == (accumulate, per_device)
    assert division.processes * division.accumulate * division.per_device == given["batch_size"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_size": 12, "processes": 8}, r"^data.batch_size=12: .* 8 processes; give 8 or 16$"),
        ({"batch_size": 4, "processes": 8}, r"^data.batch_size=4: .* 8 processes; give 8$"),
        ({"batch_size": 12, "processes": 2, "accumulate": 4}, r"2 processes and trainer.accumulate=4; give 8 or 16$"),
        ({"batch_size": 12, "batch_per_device": 5}, r"data.batch_per_device=5; give 10 or 15, or another"),
        (
            {"batch_size": 16, "batch_per_device": 4, "accumulate": 2},
            r"^trainer.accumulate=2: data.batch_size=16 .* takes 4 micro-batches",
        ),
        ({"batch_size": 0}, r"^data.batch_size=0: "),
        ({"batch_size": 4, "batch_per_device": "a"}, r"^data.batch_per_device=a: "),
        ({"batch_size": 4, "accumulate": True}, r"^trainer.accumulate=True: "),
    ],
)
def test_what_does_not_divide_names_what_would(given, said):
    with pytest.raises(UserError, match=said):
        divide_batch(**given)


def samples(processes: int, accumulate: int, *, start: int = 16, images: int = 8, updates: int = 3) -> list[list[int]]:
    """Of every update, in the order of (micro-batch, process)."""
    division = divide_batch(batch_size=images, processes=processes, accumulate=accumulate)
    loaders = [
        list(
            TrainBatches(
                order=EpochOrder(length=20, seed=0),
                start_sample=start,
                num_batches=updates * accumulate,
                batch_size=division.per_device,
                rank=rank,
                world_size=processes,
            )
        )
        for rank in range(processes)
    ]
    micro = [range(update * accumulate, (update + 1) * accumulate) for update in range(updates)]
    return [[sample for m in numbers for loader in loaders for sample, _ in loader[m]] for numbers in micro]


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 1), (1, 2), (4, 2), (2, 4), (8, 1)])
def test_every_update_sees_the_same_images_in_the_same_groups(processes, accumulate):
    alone = samples(1, 1)
    assert samples(processes, accumulate) == alone == [list(range(16 + 8 * u, 24 + 8 * u)) for u in range(3)]


def test_a_resume_with_other_processes_goes_on_with_the_next_images():
    assert samples(2, 2, updates=1) + samples(4, 1, start=24, updates=2) == samples(1, 1)
