"""Eight pictures by heart: what the TiTok family learns when nothing but its own parts can be in the way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imtok.common.build import build
from imtok.common.pixels import mean_psnr
from imtok.configs.compose import compose_config
from imtok.losses.total import WeightedLosses
from imtok.tokenizers.hub import save_pretrained
from imtok.tokenizers.proxy_vqgan import proxy_vqgan
from imtok.tokenizers.tokenizer import Tokenizer
from imtok.training.init_from import freeze_parts, init_from
from imtok.training.optim.optimizers import learning_rate

pytestmark = pytest.mark.slow
PROXY = {"codebook_size": 64, "code_dim": 16, "channels": 32, "channel_multipliers": [1, 1, 2], "blocks_per_level": 1}
VIT = {"num_tokens": 8, "image_size": 32, "width": 64, "depth": 2, "num_heads": 4}
CAPTIONS = [f"picture {number}" for number in ("one", "two", "three", "four", "five", "six", "seven", "eight")]


def pictures() -> Tensor:
    """Smooth ones of 32x32 pixels, each another."""
    coarse = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
    return F.interpolate(coarse, size=32, mode="bicubic").clamp(-1, 1)


def psnr(tokenizer: Tokenizer, images: Tensor, **given: Any) -> float:
    value = float(mean_psnr(images, tokenizer.eval().reconstruct(images, **given)))
    print(f"{value:.2f} dB")
    return value


def learn(module: nn.Module, loss: Callable[[], Tensor], *, updates: int, lr: float) -> None:
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    factor = learning_rate({"shape": "cosine", "warmup": 50, "min_ratio": 0.02}, total=updates, key="lr")
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = lr * factor(update)
        loss().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def pixels_and_codebook(tokenizer: Tokenizer, images: Tensor, conditions: Tensor | None = None) -> Tensor:
    output = tokenizer(images, conditions=conditions)
    losses = output.quantized.losses
    return (output.reconstruction - images).square().mean() + 0.1 * (losses["codebook"] + 0.25 * losses["commit"])


def node(
    decoder: dict[str, Any], *, dim: int, patch_size: int, legacy_reshape: bool = False, **parts: Any
) -> dict[str, Any]:
    encoder = {"dim": dim, "patch_size": patch_size, "legacy_reshape": legacy_reshape, **VIT}
    return {
        "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
        "image_size": 32,
        "encoder": {"_target_": "imtok.tokenizers.encoders.latent_vit.LatentViTEncoder", **encoder},
        "quantizer": {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 64, "unit_length": True},
        "decoder": {"patch_size": patch_size, **VIT, **decoder},
        **parts,
    }


def test_quickstart_1d(tmp_path, monkeypatch) -> None:
    """The experiment itself, at 64x64; about two minutes."""
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path))
    words = ["experiment=quickstart_1d", "data.count=8", "data.val_count=1", "data.batch_size=8", "data.num_workers=0"]
    config = compose_config("train", words)
    data = build(config["data"], key="data")
    tokenizer = build(config["tokenizer"], key="tokenizer").train()
    images = data.prepare_batch(next(iter(data.train_loader(num_batches=1))), "cpu")["image"]
    learn(tokenizer, lambda: pixels_and_codebook(tokenizer, images), updates=700, lr=2e-3)
    assert psnr(tokenizer, images) > 30


def test_ta_titok_with_captions() -> None:
    conditioner = {"_target_": "imtok.tokenizers.conditioners.clip_text.CLIPText", "weights": "random", "length": 16}
    conditioner |= {"width": 32, "depth": 1, "num_heads": 2}
    decoder = {"_target_": "imtok.decoders.mask_token_vit.MaskTokenViTDecoder", "condition_tokens": 16}
    decoder |= {"init_std": None}
    tokenizer = build(node(decoder, dim=16, patch_size=8, conditioner=conditioner), key="tokenizer").train()
    images, text = pictures(), tokenizer.conditions_of({"caption": CAPTIONS})
    learn(tokenizer, lambda: pixels_and_codebook(tokenizer, images, text), updates=1000, lr=2e-3)
    assert psnr(tokenizer, images, conditions=text) > 30


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a MaskGIT-VQGAN that knows the eight pictures, as the published one knows ImageNet."""
    torch.manual_seed(0)
    images, (made, _) = pictures(), proxy_vqgan(weights="random", setting="proxy", **PROXY)
    made.train().requires_grad_(True)
    learn(made, lambda: pixels_and_codebook(made, images), updates=300, lr=2e-3)
    assert psnr(made, images) > 33
    folder = tmp_path_factory.mktemp("proxy")
    save_pretrained(made, folder)
    return folder


@pytest.mark.parametrize(
    ("dropout", "updates"), [(None, 1000), ("tail_drop.TailDrop", 1500)], ids=["titok", "one_d_piece"]
)
def test_two_stages_over_proxy_codes(proxy: Path, tmp_path: Path, dropout: str | None, updates: int) -> None:
    """Stage 1 learns every proxy code, so its picture is the proxy's; stage 2 paints from the mean code."""
    images, learned = pictures(), Tokenizer.from_pretrained(proxy).eval()
    parts = {"token_dropout": {"_target_": f"imtok.tokenizers.token_dropout.{dropout}"}} if dropout else {}
    decoder = {"_target_": "imtok.decoders.proxy_codes.ProxyCodeDecoder", **PROXY}

    def stage(trains: str, pretrained: str | None) -> Tokenizer:
        given = decoder | {"trains": trains, "pretrained": pretrained}
        return build(node(given, dim=12, patch_size=4, legacy_reshape=True, **parts), key="tokenizer").train()

    first = stage("codes", str(proxy))
    term = {
        "_target_": "imtok.losses.proxy_codes.ProxyCodes",
        "weights": str(proxy),
        "precision": "fp32",
        "store": True,
    }
    config = {"proxy_codes": {"weight": 1.0, "term": term}}
    for key, weight in (("codebook", 0.1), ("commit", 0.025)):
        config[key] = {"weight": weight, "term": {"_target_": "imtok.losses.quantizer.QuantizerTerm", "key": key}}
    losses = WeightedLosses.from_config(config, first)
    batch = {"image": images, "key": CAPTIONS}
    learn(first, lambda: losses(batch, first(images), 0).total, updates=updates, lr=2e-3)
    wanted = learned.tokenize(images)[..., 0]
    likeliest = first.eval().decoder.logits(first.quantize(images).codes).argmax(dim=-1)
    assert torch.equal(likeliest, wanted)
    assert psnr(first, images) == pytest.approx(psnr(learned, images), abs=1e-3)

    save_pretrained(first, tmp_path / "first")
    second = stage("pixels", None)
    init_from(second, str(tmp_path / "first"))
    freeze_parts(second, ["encoder", "quantizer"])
    second.quantizer.eval()
    learn(second, lambda: (second(images).reconstruction - images).square().mean(), updates=100, lr=1e-3)
    assert torch.equal(second.eval().tokenize(images), first.tokenize(images)), "what is frozen stays"
    assert psnr(second, images) > (30 if dropout else psnr(first, images))
    if dropout:  # all of its lengths share the second stage, so its best does not gain
        assert psnr(second, images, num_tokens=1) < psnr(second, images)
