"""Proxy codes: their cross-entropy by hand, what is frozen, what is stored, and mistakes."""

import math

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn

from imtok.common.build import build
from imtok.common.errors import MissingWeights, UserError
from imtok.configs.compose import compose_config
from imtok.losses.proxy_codes import ProxyCodes, StoredCodes, fingerprints
from imtok.losses.total import WeightedLosses
from imtok.tokenizers.hub import save_pretrained
from imtok.tokenizers.proxy_vqgan import proxy_vqgan

WORDS = ["experiment=titok_s128/stage1", "debug=tiny", "data=generated"]


@pytest.fixture
def config() -> dict:
    return compose_config("train", WORDS)


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_cross_entropy_of_the_proxys_own_codes(config) -> None:
    seed_everything(0, verbose=False)
    tokenizer = build(config["tokenizer"], key="tokenizer").train()
    losses = WeightedLosses.from_config(config["loss"], tokenizer)
    output = tokenizer(images())
    assert output.reconstruction is None, "a picture costs nine times the ViT, and stage 1 needs none"
    value = losses({"image": images()}, output, 0).raw["proxy_codes"]

    proxy, _ = proxy_vqgan(weights="random", setting="x", **tokenizer.decoder.proxy_sizes)
    codes = proxy.quantizer(proxy.encoder(images())).indices["main"][..., 0]
    with torch.no_grad():
        log_p = tokenizer.decoder.logits(output.quantized.codes).log_softmax(-1)
    expected = -sum(log_p[b, n, codes[b, n]] for b in range(3) for n in range(4)) / 12
    torch.testing.assert_close(value, expected, rtol=2e-2, atol=2e-2)  # the term's proxy may run in bf16
    assert 0.8 * math.log(64) < float(value) < 1.4 * math.log(64)
    assert torch.equal(tokenizer.decoder.codebook, proxy.quantizer.codebook), "the picture's half is the same proxy's"


def test_only_the_trained_half_gets_gradients(config) -> None:
    tokenizer = build(config["tokenizer"], key="tokenizer").train()
    losses = WeightedLosses.from_config(config["loss"], tokenizer)
    assert not list(losses.parameters()) and not losses.state_dict()
    losses({"image": images()}, tokenizer(images()), 0).total.backward()
    for name, parameter in tokenizer.named_parameters():
        proxy = name.startswith(("decoder.pixels.", "decoder.codebook"))
        assert parameter.requires_grad is not proxy, name
        assert (parameter.grad is None) is proxy, name


def test_stage_1_paints_the_likeliest_code_and_stage_2_the_mean_code(config) -> None:
    tokenizer = build(config["tokenizer"], key="tokenizer").eval()
    decoder, codes = tokenizer.decoder, tokenizer.quantize(images()).codes
    logits = decoder.logits(codes)

    def painted(proxy: torch.Tensor) -> torch.Tensor:
        return decoder.pixels({"main": type(codes["main"])(proxy, (2, 2))})

    torch.testing.assert_close(decoder(codes), painted(decoder.codebook[logits.argmax(-1)]))
    decoder.trains = "pixels"
    torch.testing.assert_close(decoder(codes), painted(logits.softmax(-1) @ decoder.codebook))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pictures = 0

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.pictures += len(batch)
        return (batch.flatten(1)[:, :4] * 100).long()


def test_stored_codes_are_computed_once_and_moving_pictures_are_refused() -> None:
    net, store, batch = Counting(), StoredCodes(), {"image": images(), "key": ["a", "b", "c"]}
    first = store.codes(batch, net)
    again = store.codes({"image": images()[[2, 0]], "key": ["c", "a"]}, net)
    assert torch.equal(again, first[[2, 0]]) and torch.equal(first, net(images())) and net.pictures == 6
    with pytest.raises(UserError, match="store=true: b came back with other pixels"):
        store.codes({"image": images()[1:2].flip(3), "key": ["b"]}, net)
    assert len(set(fingerprints(torch.cat([images(), images().roll(1, 3)])).tolist())) == 6


@pytest.mark.slow
def test_weights_from_a_folder_and_mistakes(config, tmp_path, monkeypatch) -> None:
    tokenizer = build(config["tokenizer"], key="tokenizer")
    sizes = tokenizer.decoder.proxy_sizes
    proxy, _ = proxy_vqgan(weights="random", setting="x", **sizes)
    nn.init.normal_(proxy.quantizer.codebook)
    save_pretrained(proxy, tmp_path / "proxy")
    again, origin = proxy_vqgan(weights=str(tmp_path / "proxy"), setting="x", **sizes)
    assert torch.equal(again.quantizer.codebook, proxy.quantizer.codebook)
    assert not origin.random and not origin.published
    with pytest.raises(UserError, match=r"^x=.*another architecture than a MaskGIT-VQGAN of the decoder's sizes"):
        proxy_vqgan(weights=str(tmp_path / "proxy"), setting="x", **(sizes | {"channels": 64}))
    with pytest.raises(UserError, match=r"^weights=nowhere: no such file"):
        ProxyCodes(weights="nowhere").misfit(tokenizer)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeights, match=r"maskgit-vqgan-imagenet-f16-256.bin is not here.*weights=PATH"):
        ProxyCodes().misfit(tokenizer)
    tokenizer.decoder.trains = "pixels"
    assert "trains=codes" in ProxyCodes(weights="random").misfit(tokenizer)
    other = build(compose_config("train", ["debug=tiny"])["tokenizer"], key="tokenizer")
    assert "predicts no codes" in ProxyCodes(weights="random").misfit(other)
