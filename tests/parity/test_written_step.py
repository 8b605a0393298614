"""A training step written out by hand, stored as the reference code's are: `imtok parity` finds the same numbers."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from imtok.losses.adversarial.patchgan import PatchGAN, from_taming_keys
from imtok.losses.lpips import LPIPSNet
from imtok.parity.trunks import fill_by_rule
from imtok.scripts.parity import check, main
from imtok.tokenizers import released

CHANNELS, Z, CODES, NDF, LR = 32, 8, 16, 4, 4.32e-4


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape) / max(1, torch.tensor(shape[1:]).prod().item()) ** 0.5


def layer(name: str, wide: int, narrow: int, kernel: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": normal(wide, narrow, kernel, kernel), f"{name}.bias": 0.1 * torch.randn(wide)}


def norm(name: str) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": 1 + 0.1 * torch.randn(CHANNELS), f"{name}.bias": 0.1 * torch.randn(CHANNELS)}


def block(name: str) -> dict[str, torch.Tensor]:
    convolutions = layer(f"{name}.conv1", CHANNELS, CHANNELS, 3) | layer(f"{name}.conv2", CHANNELS, CHANNELS, 3)
    return norm(f"{name}.norm1") | norm(f"{name}.norm2") | convolutions


def vqgan() -> dict[str, torch.Tensor]:
    """VQGAN's names: two levels of one block, no attention but in the middle."""
    state: dict[str, torch.Tensor] = {"quantize.embedding.weight": torch.randn(CODES, Z)}
    state |= layer("quant_conv", Z, Z, 1) | layer("post_quant_conv", Z, Z, 1)
    state |= layer("encoder.conv_in", CHANNELS, 3, 3) | layer("decoder.conv_in", CHANNELS, Z, 3)
    state |= layer("encoder.conv_out", Z, CHANNELS, 3) | layer("decoder.conv_out", 3, CHANNELS, 3)
    state |= layer("encoder.down.0.downsample.conv", CHANNELS, CHANNELS, 3)
    state |= layer("decoder.up.1.upsample.conv", CHANNELS, CHANNELS, 3)
    for level in (0, 1):
        state |= block(f"encoder.down.{level}.block.0")
        state |= block(f"decoder.up.{level}.block.0") | block(f"decoder.up.{level}.block.1")
    for side in ("encoder", "decoder"):
        state |= norm(f"{side}.norm_out") | norm(f"{side}.mid.attn_1.norm")
        state |= block(f"{side}.mid.block_1") | block(f"{side}.mid.block_2")
        for part in ("q", "k", "v", "proj_out"):
            state |= layer(f"{side}.mid.attn_1.{part}", CHANNELS, CHANNELS, 1)
    return state


def patchgan() -> dict[str, torch.Tensor]:
    """taming's flat list of n_layers=1: convolution 0; convolution 2 and batch norm 3; convolution 5."""
    bn = {"weight": 1 + 0.1 * torch.randn(8), "bias": torch.randn(8), "running_mean": torch.randn(8)}
    bn |= {"running_var": torch.rand(8), "num_batches_tracked": torch.tensor(3)}
    first, last = layer("main.0", NDF, 3, 4), layer("main.5", 1, 8, 4)
    return first | {"main.2.weight": normal(8, NDF, 4, 4)} | {f"main.3.{k}": v for k, v in bn.items()} | last


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """VQGAN's update, Esser et al.: eq. 4 to 7 and configs/imagenet_vqgan.yaml, in plain torch."""
    torch.manual_seed(3)
    torch.set_num_threads(1)
    state, critic_state, images = vqgan(), patchgan(), torch.rand(2, 3, 32, 32) * 2 - 1
    tokenizer, _ = released.find("vqgan").import_state(state, image_size=32)
    critic = PatchGAN(ndf=NDF, n_layers=1)
    critic.load_state_dict(from_taming_keys(critic_state))
    perceptual = LPIPSNet(weights="random")
    fill_by_rule(perceptual.features, seed=16, gain=2.0)
    tokenizer.train(), critic.train()

    z_BND = tokenizer.encoder(images)["main"].x_BND
    book = tokenizer.quantizer.codebook
    indices = torch.cdist(z_BND, book.expand(2, -1, -1)).argmin(dim=-1)
    codes = book[indices]
    through = z_BND + (codes - z_BND).detach()
    made = tokenizer.decoder({"main": type(tokenizer.encoder(images)["main"])(through, (16, 16))})
    nll = (made - images).abs().mean() + perceptual(made, images).mean()
    quantizer_loss = F.mse_loss(z_BND, codes.detach()) + 0.25 * F.mse_loss(codes, z_BND.detach())
    gan = -critic(made).mean()
    last = tokenizer.decoder.conv_out.weight
    norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (nll, gan)]
    weight = 0.8 * norms[0] / (norms[1] + 1e-4)
    total = nll + quantizer_loss + weight.detach() * gan
    real, fake = critic(images), critic(made.detach())
    hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2

    io = {"image": images, "reconstruction": made, "nll_loss": nll, "quantizer_loss": quantizer_loss, "gan_loss": gan}
    io |= {"adaptive_weight": weight, "total": total, "discriminator.total": hinge, "discriminator.logits_fake": fake}
    io["indices"] = indices[..., None]
    stepped(io, "", total, tokenizer, {"decoder.conv_out.bias": "decoder.conv_out.bias"})
    stepped(io, "discriminator.", hinge, critic, {"main.5.bias": "head.bias"})
    io["discriminator.after.main.3.running_mean"] = critic.blocks[0].norm.running_mean

    adam = {"name": "adam", "lr": LR, "betas": [0.5, 0.9], "weight_decay": 0.0, "eps": 1e-8, "clip_norm": None}
    config = {
        "system": "vqgan",
        "image_size": [32, 32],
        "image_range": [-1.0, 1.0],
        "global_step": 250001,
        "order": "generator first",
        "optimizer": adam,
        "discriminator_optimizer": adam,
        "generator_parameters": sorted(state),
        "discriminator_parameters": [name for name in critic_state if name.endswith((".weight", ".bias"))],
    }
    folder = tmp_path_factory.mktemp("written") / "vqgan"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    weights = state | {f"discriminator.{name}": tensor for name, tensor in critic_state.items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "weights.safetensors")
    save_file({k: v.detach().clone().contiguous() for k, v in io.items()}, folder / "io.safetensors")
    return folder


def stepped(io: dict, prefix: str, loss: torch.Tensor, network: nn.Module, names: dict[str, str]) -> None:
    """Gradients, and Adam's first two steps; the second sees a quarter of the gradients."""
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    io[f"{prefix}grad_norm"] = torch.stack([g.norm() for g in gradients]).norm()
    for theirs, ours in names.items():
        gradient = gradients[list(parameters).index(ours)]
        m, v, value = torch.zeros_like(gradient), torch.zeros_like(gradient), parameters[ours].detach().clone()
        io[f"{prefix}grad.{theirs}"] = gradient
        for step, g in ((1, gradient), (2, gradient / 4)):
            m, v = 0.5 * m + 0.5 * g, 0.9 * v + 0.1 * g**2
            value = value - LR * (m / (1 - 0.5**step)) / ((v / (1 - 0.9**step)).sqrt() + 1e-8)
            io[f"{prefix}step{step}.{theirs}"] = value
            io[f"{prefix}change{step}.{theirs}"] = value - parameters[ours].detach()


def failed(folder) -> set[str]:
    return {row.output for row in check(folder).rows if not row.ok}


def test_what_is_written_out_holds(folder, capsys):
    assert main([str(folder)]) == 0
    table = capsys.readouterr().out
    assert "vqgan (vqgan_f16_1024)" in table and "holds: forward, objective, optimizer" in table
    assert "update 250001" in table


def test_wrong_numbers_fail_and_no_others(folder, tmp_path):
    io = load_file(folder / "io.safetensors")
    names = ("total", "change1.decoder.conv_out.bias", "discriminator.after.main.3.running_mean")
    for file in ("config.json", "weights.safetensors"):
        (tmp_path / file).symlink_to(folder / file)
    save_file(io | {name: io[name] * 1.05 for name in names}, tmp_path / "io.safetensors")
    assert failed(tmp_path) == set(names)


def test_another_weight_in_the_yaml_fails(folder, monkeypatch):
    from imtok.parity import training_config

    compose = training_config.compose_config

    def other(name, overrides):
        words = ("loss.codebook.weight=0.26", "adversary.weight=0.9", "adversary.order=discriminator_first")
        return compose(name, [*overrides, *words, "optimizer.lr=1e-4"])

    monkeypatch.setattr(training_config, "compose_config", other)
    wrong = failed(folder)
    assert {"quantizer_loss", "adaptive_weight", "total", "gan_loss", "order", "optimizer.lr"} <= wrong
    assert {"change1.decoder.conv_out.bias", "discriminator.change1.main.5.bias"} <= wrong
    assert not wrong & {"nll_loss", "discriminator.total", "reconstruction", "optimizer.betas"}
