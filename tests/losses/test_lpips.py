import copy
import warnings

import pytest
import torch

from imtok.common import weights as pretrained_file
from imtok.common.errors import MissingWeights, UserError
from imtok.losses import lpips as lpips_module
from imtok.losses.lpips import LPIPS, LPIPSNet
from imtok.losses.total import WeightedLosses


@pytest.fixture(scope="module", params=["vgg", "alex"])
def net(request):
    return LPIPSNet(net=request.param, weights="random")


def test_equals_torchmetrics_on_the_same_trunk(net, images):
    """Its published heads and our random trunk inside torchmetrics' copy of the authors' network."""
    from torchmetrics.functional.image.lpips import _LPIPS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = _LPIPS(net=net.net, pnet_rand=True)
    by_number = {name: p for s in range(1, 6) for name, p in getattr(reference.net, f"slice{s}").named_parameters()}
    assert set(by_number) == set(net.features.state_dict())
    for name, value in net.features.state_dict().items():
        by_number[name].data.copy_(value)

    a, b = images(3, 64, seed=1), images(3, 64, seed=2)
    ours = net(a, b)
    assert ours.shape == (3,)
    torch.testing.assert_close(ours, reference(a, b).flatten(), atol=1e-5, rtol=1e-5)
    assert ours.min() > 0.01  # so that the tolerance means something
    assert torch.equal(net(a, a), torch.zeros(3))


def test_gradient_reaches_the_images_and_equals_torchs(net, images):
    a, b = images(1, 32, seed=1).requires_grad_(), images(1, 32, seed=2).requires_grad_()
    net(a, b).sum().backward()
    assert b.grad is None
    direction = torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    step = 1e-3
    with torch.no_grad():
        numeric = (net(a + step * direction, b) - net(a - step * direction, b)).sum() / (2 * step)
    assert float((a.grad * direction).sum()) == pytest.approx(float(numeric), rel=0.05, abs=1e-4)


def test_identical_images_have_finite_gradients(net, images):
    a = torch.zeros(1, 3, 32, 32, requires_grad=True)
    net(a, torch.zeros(1, 3, 32, 32)).sum().backward()
    assert a.grad.isfinite().all()


def test_bf16_trunk_keeps_fp32_sums(net, images):
    a, b = images(2, 32, seed=1), images(2, 32, seed=2)
    dtypes = []
    handle = net.features[0].register_forward_hook(lambda m, i, o: dtypes.append((i[0].dtype, o.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        value = net(a, b)
    handle.remove()
    assert dtypes[0] == (torch.float32, torch.bfloat16)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, net(a, b), rtol=0.05, atol=1e-3)


def test_the_term_is_fp32_inside_any_autocast_where_that_is_said(output_of, images):
    a, b = images(2, 32, seed=1), images(2, 32, seed=2)
    for precision in ("auto", "fp32"):
        term = LPIPS(weights="random", precision=precision)
        exact = term({"image": a}, output_of(b))
        with torch.autocast("cpu", torch.bfloat16):
            assert bool(term({"image": a}, output_of(b)) == exact) == (precision == "fp32")


def test_random_is_the_same_everywhere_and_says_so(net):
    torch.manual_seed(123)
    again = LPIPSNet(net=net.net, weights="random")
    assert again.weights_are_random
    for ours, theirs in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs) and not ours.requires_grad


def test_weights_from_a_file(tmp_path, images):
    source = LPIPSNet(net="alex", weights="random")
    for p in source.features.parameters():
        p.mul_(1.1)
    path = tmp_path / "my weights.pth"
    torch.save(
        {f"features.{k}": v for k, v in source.features.state_dict().items()} | {"classifier.1.bias": torch.ones(2)},
        path,
    )
    loaded = LPIPSNet(net="alex", weights=str(path))
    assert not loaded.weights_are_random
    assert torch.equal(loaded(images(seed=1), images(seed=2)), source(images(seed=1), images(seed=2)))
    with pytest.raises(UserError, match=r"^weights=.*another architecture than torchvision's vgg"):
        LPIPSNet(net="vgg", weights=str(path))
    with pytest.raises(UserError, match=r"^weights=.*no such file"):
        LPIPSNet(net="vgg", weights=str(tmp_path / "none.pth"))
    (tmp_path / "bad.pth").write_text("hello")
    with pytest.raises(UserError, match="cannot be read"):
        LPIPSNet(net="vgg", weights=str(tmp_path / "bad.pth"))


def test_pretrained_is_read_from_torch_home(tmp_path, monkeypatch, images):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    source = LPIPSNet(net="alex", weights="random")
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    state = {f"features.{k}": v for k, v in source.features.state_dict().items()}
    torch.save(state, tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth")
    loaded = LPIPSNet(net="alex", weights="pretrained")
    assert not loaded.weights_are_random
    assert torch.equal(loaded(images(seed=1), images(seed=2)), source(images(seed=1), images(seed=2)))


def test_missing_weights_is_one_line_with_the_remedy(tmp_path, monkeypatch):
    tries = []

    def no_network(url, timeout):
        tries.append(timeout)
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(pretrained_file.urllib.request, "urlopen", no_network)
    for _ in range(2):
        with pytest.raises(MissingWeights) as caught:
            LPIPSNet(net="vgg", weights="pretrained")
    assert len(tries) == 1 and tries[0] <= 10  # asked once, briefly
    message = str(caught.value)
    for part in ("vgg16-397923af.pth", str(tmp_path), "no route", "use weights=PATH", "weights=random"):
        assert part in message
    assert "\n" not in message


def test_wrong_net_and_small_images(FakeTokenizer, images):
    term = {"_target_": "imtok.losses.lpips.LPIPS", "net": "alex", "weights": "random"}
    with pytest.raises(UserError, match=r"^loss\.mine\.term\.net=squeeze: .* one of vgg, alex"):
        WeightedLosses.from_config({"mine": {"term": term | {"net": "squeeze"}}}, FakeTokenizer())
    with pytest.raises(UserError, match=r"loss\.lpips: .*31 pixels.*\[16, 16\]"):
        WeightedLosses.from_config({"lpips": {"term": term}}, FakeTokenizer(image_size=(16, 16)))
    net = LPIPSNet(net="alex", weights="random")
    with pytest.raises(UserError, match="31 pixels"):
        net(images(size=30), images(size=30))
    assert net(images(size=31), images(size=31)).isfinite().all()  # the limit is the true one
    assert LPIPSNet(net="vgg", weights="random")(images(size=16), images(size=16, seed=1)).isfinite().all()


def test_term_hides_its_network(FakeTokenizer, output_of, images):
    node = {"lpips": {"term": {"_target_": "imtok.losses.lpips.LPIPS", "net": "alex", "weights": "random"}}}
    losses = WeightedLosses.from_config(node, FakeTokenizer())
    assert losses.random_weights == ["lpips"]
    assert not losses.state_dict() and not list(losses.parameters()) and not list(losses.buffers())
    value = losses({"image": images(seed=1)}, output_of(images(seed=2)), update=0)
    expected = losses.terms["lpips"].net(images(seed=2), images(seed=1)).mean()
    assert torch.equal(value.total, expected)

    losses.train()
    assert not losses.terms["lpips"].net.training
    losses.to(torch.device("meta"))  # it moves with .to all the same
    assert next(losses.terms["lpips"].net.module.parameters()).device.type == "meta"


def test_sample_mask(output_of, images):
    term = LPIPS(net="alex", weights="random", skip_masked_samples=True)
    a, b = images(3, seed=1), images(3, seed=2)
    output = output_of(a, sample_mask=torch.tensor([False, True, True]))
    torch.testing.assert_close(term({"image": b}, output), term.net(a[1:], b[1:]).mean())
    assert copy.deepcopy(term)({"image": b}, output) == term({"image": b}, output)


def test_layer_numbers_are_torchvisions():
    import torchvision

    with torch.device("meta"):
        references = {"vgg": torchvision.models.vgg16(), "alex": torchvision.models.alexnet()}
    for net, reference in references.items():
        wanted = {k: v.shape for k, v in reference.features.state_dict().items()}
        assert {
            k: v.shape for k, v in lpips_module._trunk(lpips_module._NETS[net]["layers"]).state_dict().items()
        } == wanted
