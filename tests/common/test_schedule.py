import math

import pytest

from imtok.common.errors import UserError
from imtok.common.schedule import schedule_of


def test_a_number_never_changes():
    assert [schedule_of(0.3, key="k")(n) for n in (0, 7, 10**6)] == [0.3] * 3


def test_linear_by_hand():
    weight = schedule_of({"start": 1.0, "end": 3.0, "updates": 4, "after": 2}, key="k")
    assert [weight(n) for n in range(8)] == [1, 1, 1, 1.5, 2, 2.5, 3, 3]


def test_cosine_by_hand():
    weight = schedule_of({"start": 0.0, "end": 2.0, "updates": 3, "shape": "cosine"}, key="k")
    expected = [1 - math.cos(math.pi * n / 3) for n in range(4)] + [2.0]
    assert [weight(n) for n in range(5)] == pytest.approx(expected)


def test_a_step():
    weight = schedule_of({"start": 0, "end": 1, "updates": 0, "after": 2}, key="k")
    assert [weight(n) for n in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("much", "loss.l1.weight=much"),
        (True, "loss.l1.weight=True"),
        (float("nan"), "loss.l1.weight=nan"),
        ({"start": 0, "end": 1, "steps": 5}, "loss.l1.weight.steps=5"),
        ({"start": 0, "end": 1}, "loss.l1.weight.updates"),
        ({"start": 0, "end": 1, "updates": -1}, "loss.l1.weight.updates=-1"),
        ({"start": 0, "end": 1, "updates": 3, "shape": "cubic"}, "loss.l1.weight.shape=cubic"),
        ({"start": 0, "end": "x", "updates": 3}, "loss.l1.weight.end=x"),
    ],
)
def test_errors_name_the_key(value, says):
    with pytest.raises(UserError) as caught:
        schedule_of(value, key="loss.l1.weight")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
