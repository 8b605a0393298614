"""Facts, limits and error lines of a tokenizer that its round trips do not show."""

import json

import pytest
import torch
from torch import nn

import imtok
from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.types import IndexSegment
from imtok.tokenizers.feature_taps import FeatureTaps
from imtok.tokenizers.hub import find_folder, load_weights, not_much_larger_than, save_pretrained
from imtok.tokenizers.index_tensors import NoSuchToken, check_entries, split_by_stream
from imtok.tokenizers.proxy_vqgan import proxy_vqgan
from imtok.tokenizers.quality import Quality

LAYOUT = (IndexSegment("a", 2, (4, 6)), IndexSegment("b", 3, (5, 5)), IndexSegment("a", 1, (7, 7), scale=1))
PROXY = {"codebook_size": 16, "code_dim": 8, "channels": 32, "channel_multipliers": [1, 2], "blocks_per_level": 1}
STAGES = {"codebook_size": 16, "stages": 2}


def test_indices_are_split_in_the_order_of_the_layout() -> None:
    indices = torch.arange(12).view(1, 6, 2)
    parts = split_by_stream(indices, LAYOUT, (8, 8))
    assert {name: part[0, :, 0].tolist() for name, part in parts.items()} == {"a": [0, 2, 4], "b": [6, 8, 10]}
    for wrong in (indices[0], indices[:, :5], indices[..., :1]):
        with pytest.raises(UserError, match=r"images of 8x8 have \[batch, 6, 2\]"):
            split_by_stream(wrong, LAYOUT, (8, 8))


def test_every_index_is_held_against_its_own_codebook() -> None:
    largest = {"a": torch.tensor([[[3, 5], [3, 5], [6, 6]]]), "b": torch.full((1, 3, 2), 4)}
    check_entries(largest, LAYOUT)
    check_entries({name: part[:0] for name, part in largest.items()}, LAYOUT)
    for stream, place, column, entries in (("a", 0, 0, 4), ("a", 1, 1, 6), ("a", 2, 0, 7), ("b", 2, 1, 5)):
        wrong = {name: part.clone() for name, part in largest.items()}
        wrong[stream][0, place, column] = entries
        with pytest.raises(NoSuchToken, match=f"of the stream '{stream}' reach {entries}, but .* {entries} entries"):
            check_entries(wrong, LAYOUT)


@pytest.mark.parametrize(
    ("quantizer", "size", "bits"),
    [
        ({"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 32}, 32, 64 * 5),
        ({"_target_": "imtok.tokenizers.quantizers.residual_vq.ResidualVQ", **STAGES}, (16, 16), 512),
        ({"_target_": "imtok.tokenizers.quantizers.kl.KL"}, (), 0),
    ],
)  # fmt: skip
def test_size_of_the_codebook_and_bits(tokenizer_node, tmp_path, quantizer, size, bits) -> None:
    tokenizer = build(tokenizer_node | {"quantizer": quantizer}, key="tokenizer").eval()
    assert tokenizer.codebook_size == size and tokenizer.bits_per_image == bits
    assert tokenizer.device == torch.device("cpu")
    if size == ():
        with pytest.raises(UserError, match=r"continuous \(KL\)"):
            tokenizer.tokenize(torch.zeros(1, 3, 32, 32))
    with pytest.raises(UserError, match=r"tokenizer.decoder \(CNNDecoder\) draws no noise"):
        tokenizer.reconstruct(torch.zeros(1, 3, 32, 32), generator=torch.Generator())
    save_pretrained(tokenizer, tmp_path, facts={"experiment": "my title", "rfid": 2.5})
    card = (tmp_path / "README.md").read_text()
    millions = sum(p.numel() for p in tokenizer.parameters()) / 1e6
    assert "# my title\n" in card and f"| parameters | {millions:.2f} M |" in card and "| rfid | 2.5 |" in card
    assert f"| bits per image | {bits} |" in card and "[B, 3, 32, 32]" in card and "| image size | 32x32 |" in card


def test_an_export_names_no_weights_to_start_from(tokenizer_node, tmp_path) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer")
    tokenizer.config["encoder"] |= {"pretrained": "elsewhere", "tiny": {"dim": 1}, "list": ({"pretrained": 1}, 2)}
    save_pretrained(tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    encoder = config["tokenizer"]["encoder"]
    assert encoder["pretrained"] is None and "tiny" not in encoder and encoder["list"] == [{"pretrained": None}, 2]
    assert config["image"] == {"size": [32, 32], "range": [-1, 1], "channels": "RGB"} and config["training"] == {}
    assert (config["format"], config["format_version"]) == ("imtok-tokenizer", 1)
    assert config["imtok_version"] == imtok.__version__


def test_a_model_may_make_some_more_than_its_weights() -> None:
    state = {"a": torch.zeros(1000)}
    with not_much_larger_than(state, source="x"):  # 4 tensors and 4000 numbers, and room beside
        for _ in range(502):
            nn.Linear(3, 3)
    with pytest.raises(UserError, match="x describes a far larger model"), not_much_larger_than(state, source="x"):
        nn.ModuleList(nn.Linear(3, 3) for _ in range(503))
    with not_much_larger_than(state, source="x"):
        nn.Linear(10_004_000, 1, bias=False)
    with pytest.raises(UserError, match="far larger"), not_much_larger_than(state, source="x"):
        nn.Linear(10_004_001, 1, bias=False)


def test_which_folder_is_meant(tmp_path) -> None:
    inner = tmp_path / "tokenizer"
    inner.mkdir()
    assert find_folder(tmp_path) == tmp_path
    (inner / "config.json").write_text("{}")
    assert find_folder(tmp_path) == inner
    (tmp_path / "config.json").write_text("{}")
    assert find_folder(tmp_path) == tmp_path
    for name in ("one", "a/b/c", "./a", "/a", "~/a"):
        with pytest.raises(UserError, match=r"no such folder \(and not a hub id"):
            find_folder(name)
    with pytest.raises(UserError, match="no such folder, and the hub gave no copy"):
        find_folder("owner/name")


def test_weights_of_another_module_are_refused(tokenizer_node, tmp_path) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer")
    file = save_pretrained(tokenizer, tmp_path) / "model.safetensors"
    other = build(tokenizer_node, key="tokenizer")
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    load_weights(other, file)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), tokenizer.parameters(), strict=True))
    with pytest.raises(UserError, match="missing"):
        load_weights(nn.Linear(2, 2), file)


def test_a_tap_keeps_the_first_of_several_outputs_and_counts_once() -> None:
    taps, lstm = FeatureTaps(), nn.LSTM(2, 3)
    taps.add("x", lstm)
    taps.add("x", nn.Linear(2, 2))  # the name is taken
    out, _ = lstm(torch.zeros(4, 1, 2))
    assert taps.collect()["x"] is out and taps.collect() == {}


def test_a_random_proxy_is_the_same_everywhere_and_frozen(tmp_path) -> None:
    state = torch.get_rng_state()
    (one, _), (two, _) = (proxy_vqgan(weights="random", setting="s", **PROXY) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not one.training and not any(p.requires_grad for p in one.parameters()) and one.image_size == (2, 2)
    assert float(one.quantizer.codebook.std()) == pytest.approx(1, rel=0.2)
    for parameter in one.parameters():
        nn.init.normal_(parameter)
    folder = save_pretrained(one, tmp_path / "proxy")
    loaded, _ = proxy_vqgan(weights=str(folder), setting="s", **PROXY)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), loaded.parameters(), strict=True))
    with pytest.raises(UserError, match="a MaskGIT-VQGAN of the decoder's sizes"):
        proxy_vqgan(weights=str(folder), setting="s", **(PROXY | {"codebook_size": 8}))


def test_bounds_of_a_quality_are_reached_by_equal_values() -> None:
    reference = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    shown = reference.clone()
    shown[1] += 51  # a fifth of the range
    shown[2, :, :2] += 51
    assert Quality.parse("l1<=0.2").reached(reference, shown).tolist() == [True, True, True]
    assert Quality.parse("l1 <= 0.15").reached(reference, shown).tolist() == [True, False, True]
    assert Quality.parse("mse<=0.0401").reached(reference, shown).tolist() == [True, True, True]
    assert Quality.parse("mse<=3e-2").reached(reference, shown).tolist() == [True, False, True]
    assert Quality.parse("psnr>=100").reached(reference, shown).tolist() == [True, False, False]
    assert Quality.parse("psnr>=15").reached(reference, shown).tolist() == [True, False, True]
    assert str(Quality.parse(" psnr >= 24.50 ")) == "psnr>=24.5" and str(Quality.parse("l1<=.05")) == "l1<=0.05"
