import pytest
import torch
from torch import nn

from imtok.training.optim.ema import EMA


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def fill(net: Net, value: float) -> None:
    with torch.no_grad():
        net.w.fill_(value)
        net.count += 1


def test_closed_form_and_copied_buffers():
    net = Net()
    ema = EMA(tokenizer=net, decay=0.9)
    for n in range(1, 6):
        fill(net, float(n))
        ema.update(net, n)
    expected = sum(0.1 * 0.9 ** (5 - n) * n for n in range(1, 6))
    assert ema.parameters["w"].tolist() == pytest.approx([expected] * 3)
    assert int(ema.buffers["count"]) == 5
    assert not any(t.requires_grad or t.grad_fn for t in ema.parameters.values())
    ema.copy_to(net)
    assert net.w.tolist() == pytest.approx([expected] * 3) and net.w.requires_grad


def test_every_second_update_moves_it_all_the_same():
    net = Net()
    ema = EMA(tokenizer=net, decay=0.5, every=2)
    for n in range(1, 5):
        fill(net, float(n))
        ema.update(net, n)
    assert ema.steps == 2
    assert ema.parameters["w"][0].item() == pytest.approx(0.5 * (0.5 * 2) + 0.5 * 4)


def test_warmup_starts_with_little_memory():
    net = Net()
    ema = EMA(tokenizer=net, decay=0.9999, warmup=True)
    fill(net, 1.0)
    ema.update(net, 1)
    assert ema.parameters["w"][0].item() == pytest.approx(0.9)


def test_swap_puts_everything_back_after_an_error_too():
    net = Net()
    ema = EMA(tokenizer=net, decay=0.9)
    fill(net, 7.0)
    place = net.w.data_ptr()

    def use() -> None:
        with ema.swapped_in(net):
            assert net.w[0].item() == 0.0 and int(net.count) == 0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        use()
    assert net.w[0].item() == 7.0 and int(net.count) == 1 and net.w.data_ptr() == place


def test_warmup_follows_its_formula_until_the_decay_is_reached():
    net = Net()
    ema, expected = EMA(tokenizer=net, decay=0.3, warmup=True), 0.0
    for n in range(5):
        fill(net, 1.0 + n)
        ema.update(net, n + 1)
        decay = min(0.3, (1 + n) / (10 + n))  # 1/10, 2/11, 3/12, then 0.3
        expected = decay * expected + (1 - decay) * (1.0 + n)
        assert ema.parameters["w"].tolist() == pytest.approx([expected] * 3)


def test_frozen_parameters_and_passing_buffers_are_no_mean():
    net = Net()
    net.register_buffer("scratch", torch.zeros(2), persistent=False)
    ema = EMA(tokenizer=net, decay=0.5)
    with torch.no_grad():
        net.frozen.fill_(9.0)
    ema.update(net, 1)
    assert ema.parameters["frozen"].tolist() == [1.0, 1.0] and set(ema.buffers) == {"count"}


def test_a_mean_goes_on_from_its_state_or_begins_anew():
    net = Net()
    ema = EMA(tokenizer=net, decay=0.9999, warmup=True)
    for n in range(3):
        fill(net, float(n))
        ema.update(net, n + 1)
    other = EMA(tokenizer=Net(), decay=0.9999, warmup=True)
    other.load_state_dict(ema.state_dict())
    fill(net, 8.0)
    for mean in (ema, other):
        mean.update(net, 4)
    assert torch.equal(other.parameters["w"], ema.parameters["w"]) and int(other.buffers["count"]) == 4
    ema.start_from(net)
    assert ema.steps == 0 and ema.parameters["w"].tolist() == [8.0] * 3


@pytest.mark.parametrize(("setting", "value"), [("decay", 1.0), ("decay", -0.1), ("every", 0)])
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value}"):
        EMA(tokenizer=Net(), **{setting: value})
    EMA(tokenizer=Net(), decay=0.0, every=1)
