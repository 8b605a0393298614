"""What every decoder and head promises, checked for every YAML in configs/tokenizer: a new one needs no new test.

reference.json holds what decoders of these sizes made of these codes when `imtok parity` last agreed with the published
networks: exports must go on giving the same images. `python tests/decoders/test_contract.py` writes it anew.
"""

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imtok.common.build import build, locate
from imtok.common.types import Latents, Stream
from imtok.configs.compose import compose_config
from imtok.decoders.base import Decoder

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "tokenizer"
REFERENCE = Path(__file__).with_name("reference.json")
DIM, GRID, SIZE = 32, (4, 4), 32
DIMS = {"semantic": 16, "pixel": 16}
# Settings that change what it computes, besides those of its YAML.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "cnn_magvit2": [{"noise": True}],
    "cnn_movq": [{"z_channels": 16}],
    "cnn_rqvae": [{"grid": 2, "causal": False}],
    "cnn_qformer": [{"qk_norm": True}, {"align_after": 2, "align_dim": 24}],
    "flow": [
        {"predicts": "data", "sampler": "heun", "time_shift": 2.0},
        {"guidance": {"_target_": "imtok.decoders.flow.guidance.AdaptiveProjectedGuidance", "scale": 3.0}},
        {"guidance": {"_target_": "imtok.decoders.flow.guidance.ClassifierFreeGuidance", "scale": 3.0}},
    ],
    "mask_token_vit": [{"class_token": False}, {"condition_dim": 6, "condition_tokens": 5}],
    "feature_vit": [{"grid": [2, 8]}],
    "mlp": [{"stream": "pixel", "depth": 3}],
    "one_stream": [{"image_size": 24}],
    "proxy_codes": [{"trains": "pixels"}],
    "rotary_latents": [{"span": None, "double_after": []}],
    "transformer": [{"num_tokens": 16}],
}


def widths(node: dict[str, Any]) -> list[int | dict[str, int]]:
    """One stream, two, or either."""
    if "stream" in node:
        return [DIM if node["stream"] is None else DIMS]
    return [DIM] if get_type_hints(locate(node["_target_"], key="decoder").__init__)["dim"] is int else [DIM, DIMS]


@cache
def yaml_node(group: str, name: str, *, tiny: bool = True) -> dict[str, Any]:
    at = "tokenizer/decoder=" if group == "decoder" else "+tokenizer/head@tokenizer.decoder="
    sizes = {"num_tokens": 16, "patch_size": 8, "span": 64}  # of the encoder, which some decoders repeat
    words = [
        "experiment=[]",
        "name=contract",
        f"{at}{name}",
        *(f"++tokenizer.encoder.{k}={v}" for k, v in sizes.items()),
    ]
    words += ["debug=tiny"] if tiny else []
    return compose_config("train", words if group == "decoder" else ["~tokenizer/decoder", *words])["tokenizer"][
        "decoder"
    ]


def cases(group: str) -> dict[str, tuple[str, dict[str, Any], int | dict[str, int]]]:
    found = {}
    for path in sorted((FOLDER / group).glob("*.yaml")):
        for changes in [{}, *VARIANTS.get(path.stem, [])]:
            for dim in widths(yaml_node(group, path.stem) | changes):
                words = [path.stem, *(["two streams"] if dim == DIMS else [])]
                words += [
                    f"{k}={v['_target_'].rpartition('.')[2] if isinstance(v, dict) else v}" for k, v in changes.items()
                ]
                found[", ".join(words)] = (path.stem, changes, dim)
    return found


DECODERS, HEADS = cases("decoder"), cases("head")


def fill(module: nn.Module) -> None:
    """Parameters that depend on their names alone; none is zero, so that whatever is read shows."""
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            generator = torch.Generator().manual_seed(sum(ord(c) * (i + 1) for i, c in enumerate(name)))
            drawn = torch.randn(parameter.shape, generator=generator)
            gain = 1.0 if parameter.ndim > 1 else 0.2
            fan_in = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 1
            parameter.copy_(drawn * gain * fan_in**-0.5 + ("norm" in name and name.endswith("weight")))


def make(case: str, group: str = "decoder", *, filled: bool = True) -> Any:
    name, changes, dim = (DECODERS | HEADS)[case]
    node = deepcopy(yaml_node(group, name)) | changes
    torch.manual_seed(0)
    module = build(node, key=f"tokenizer.{group}", dim=dim, input_size=[SIZE, SIZE])
    if filled:
        fill(module)
    return module.eval()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes_for(case: str, *, batch: int = 3, grid: tuple[int, int] = GRID, seed: int = 0) -> Latents:
    _, _, dim = (DECODERS | HEADS)[case]
    tokens = grid[0] * grid[1]
    if isinstance(dim, int):
        return {"main": Stream(drawn(batch, tokens, dim, seed=seed), grid)}
    return {
        name: Stream(drawn(batch, tokens, width, seed=seed + i), grid) for i, (name, width) in enumerate(dim.items())
    }


def more(decoder: Decoder, batch: int) -> dict[str, Tensor]:
    """Text features, for a decoder that reads some."""
    conditioned = getattr(getattr(decoder, "vit", None), "condition_embed", None) is not None
    return {"conditions": drawn(3, 5, 6, seed=9)[:batch]} if conditioned else {}


def decoded(decoder: Decoder, codes: Latents) -> Tensor:
    return decoder(codes, **more(decoder, len(next(iter(codes.values())).x_BND)))


def summary(case: str) -> list[float]:
    """3 x 4 x 4 means of the first image."""
    with torch.no_grad():
        image = decoded(make(case), codes_for(case))[:1]
    return [round(v, 5) for v in F.adaptive_avg_pool2d(image, 4).flatten().tolist()]


def full_size(group: str, name: str) -> int:
    """Parameters at the YAML's own sizes, of one stream where both are possible."""
    node = yaml_node(group, name, tiny=False)
    dims: dict[str, Any] = {"dim": widths(node)[0], "input_size": [256, 256]}
    node = node | {key: None for key in ("pretrained",) if key in node}
    if name == "vitamin":
        dims["dim"] = 1024
    with torch.device("meta"):
        return sum(p.numel() for p in build(node, key=group, **dims).parameters())


@pytest.mark.parametrize("case", DECODERS)
def test_images_are_those_of_the_reference(case: str) -> None:
    torch.testing.assert_close(summary(case), json.loads(REFERENCE.read_text())["images"][case], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", [path.stem for path in sorted((FOLDER / "decoder").glob("*.yaml"))])
def test_full_size_parameters_are_those_of_the_reference(name: str) -> None:
    assert_full_size("decoder", name)


def assert_full_size(group: str, name: str) -> None:
    assert full_size(group, name) == json.loads(REFERENCE.read_text())["parameters"][f"{group}/{name}"]


@pytest.mark.parametrize("case", DECODERS)
def test_images_have_three_channels_and_the_size_that_follows_from_the_grid(case: str) -> None:
    decoder = make(case)
    with torch.no_grad():
        square = decoded(decoder, codes_for(case))
        flat = decoded(decoder, codes_for(case, grid=(2, 4)))
    assert square.dtype == torch.float32 and square.shape[:2] == (3, 3) and bool(torch.isfinite(square).all())
    height, width = square.shape[2:]
    assert height == width and flat.shape[2:] in {(height, width), (height // 2, width)}
    if not decoder.needs_grid:
        assert flat.shape[2:] == (height, width) == (SIZE, SIZE)


@pytest.mark.parametrize("case", DECODERS)
def test_an_image_depends_on_its_own_codes_alone_and_is_the_same_again(case: str) -> None:
    decoder, codes = make(case), codes_for(case)
    with torch.no_grad():
        before = torch.get_rng_state()
        together = decoded(decoder, codes)
        assert torch.equal(torch.get_rng_state(), before), "decoding draws from the global generator"
        assert torch.equal(decoded(decoder, codes), together)
        alone = decoded(decoder, {n: Stream(s.x_BND[:1], s.grid) for n, s in codes.items()})
    torch.testing.assert_close(alone, together[:1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("case", DECODERS)
def test_gradients_reach_every_code_and_the_last_layer(case: str) -> None:
    """Through the image; through the losses, where training decodes none."""
    decoder, codes = make(case), codes_for(case)
    for stream in codes.values():
        stream.x_BND.requires_grad_()
    if decoder.cheap_sample:
        image = decoded(decoder, codes)
        image.square().sum().backward()
        assert not decoder.training_losses(codes, image.detach()) and decoder.loss_names == ()
        last = decoder.last_layer
        assert any(p is last for p in decoder.parameters()) and bool(last.grad.any())
    else:
        if hasattr(decoder, "condition_dropout"):
            decoder.condition_dropout = 0.0
        images = drawn(3, 3, SIZE, SIZE, seed=5)
        losses = decoder.train().training_losses(codes, images)
        assert tuple(losses) == decoder.loss_names
        assert all(loss.shape == () and torch.isfinite(loss) for loss in losses.values())
        if not losses:  # a loss term reads what a module of the decoder gave
            return
        sum(losses.values()).backward()
    read = [n for n in codes if not hasattr(decoder, "stream") or n == decoder.stream]
    for name, stream in codes.items():
        if name in read:
            assert bool((stream.x_BND.grad.abs().sum(dim=2) > 0).all()), f"a token of {name} is not read"
        else:
            assert stream.x_BND.grad is None


@pytest.mark.parametrize("case", DECODERS)
def test_saved_weights_give_the_same_image(case: str, tmp_path: Path) -> None:
    decoder, codes = make(case), codes_for(case)
    torch.save(decoder.state_dict(), tmp_path / "weights.pt")
    name, changes, dim = DECODERS[case]
    other = build(yaml_node("decoder", name) | changes, key="decoder", dim=dim, input_size=[SIZE, SIZE]).eval()
    other.load_state_dict(decoder.adapted(torch.load(tmp_path / "weights.pt")), strict=True)
    with torch.no_grad():
        assert torch.equal(decoded(other, codes), decoded(decoder, codes))
    assert json.loads(json.dumps(decoder.facts())) == decoder.facts()


@pytest.mark.parametrize("case", DECODERS)
def test_bf16_is_close_to_fp32(case: str) -> None:
    decoder, codes = make(case), codes_for(case)
    with torch.no_grad():
        exact = decoded(decoder, codes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = decoded(decoder, codes).float()
    assert bool(torch.isfinite(rounded).all()) and rounded.shape == exact.shape
    if getattr(decoder, "trains", "pixels") == "pixels":  # an argmax may fall otherwise
        assert float((rounded - exact).square().mean() / exact.var()) < 0.01


@pytest.mark.parametrize("case", [c for c in DECODERS if "two streams" not in c])
def test_masks_and_lengths_do_what_the_class_declares(case: str) -> None:
    decoder, x = make(case), codes_for(case)["main"].x_BND
    if decoder.needs_grid:
        with pytest.raises(AssertionError, match="grid"):
            decoded(decoder, {"main": Stream(x)})
    if not decoder.any_length:
        return
    mask = torch.arange(16) < 5
    junk = torch.where(mask[:, None], x, torch.full_like(x, 3.0))
    with torch.no_grad():
        cut = decoded(decoder, {"main": Stream(x[:, :5])})
        assert torch.equal(decoded(decoder, {"main": Stream(junk, mask_BN=mask.expand(3, -1))}), cut)
        one_longer = mask | (torch.arange(3) == 0)[:, None]
        masked = decoded(decoder, {"main": Stream(x, mask_BN=one_longer)})
        torch.testing.assert_close(masked[1:], cut[1:], atol=1e-3, rtol=1e-3)
        assert not torch.allclose(masked[0], cut[0], atol=1e-2)


@pytest.mark.parametrize("case", [c for c in DECODERS if "noise" in c or c.startswith("flow")])
def test_a_generator_overrides_the_noise_of_the_codes(case: str) -> None:
    decoder, codes = make(case), codes_for(case)
    assert decoder.draws_noise
    with torch.no_grad():
        once, again, other = (decoder(codes, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(once, again) and not torch.allclose(once, other, atol=1e-3)


def test_the_alignment_of_a_qformer_is_computed_where_training_taps_it() -> None:
    case, seen = "cnn_qformer, align_after=2, align_dim=24", []
    decoder, codes = make(case), codes_for(case)
    decoder.train()(codes)
    decoder.align.register_forward_hook(lambda _, __, out: seen.append(out))
    decoder(codes)
    decoder.eval()(codes)
    assert [out.shape for out in seen] == [(3, decoder.grid[0] * decoder.grid[1], 24)]


def head_summary(case: str) -> list[float]:
    with torch.no_grad():
        out = make(case, "head")(codes_for(case))[:1]
    return [round(v, 5) for v in F.adaptive_avg_pool1d(out.flatten(1), 16).flatten().tolist()]


def start(case: str, group: str) -> list[float]:
    """How large matrices and vectors are before training: their root mean squares."""
    parts = list(make(case, group, filled=False).parameters())
    sizes = []
    for kind in ([p for p in parts if p.ndim > 1], [p for p in parts if p.ndim == 1]):
        total = sum(float(p.detach().double().square().sum()) for p in kind)
        sizes.append(round((total / max(sum(p.numel() for p in kind), 1)) ** 0.5, 5))
    return sizes


@pytest.mark.parametrize("case", DECODERS)
def test_weights_start_as_large_as_in_the_reference(case: str) -> None:
    assert_starts(case, "decoder")


def assert_starts(case: str, group: str) -> None:
    expected = json.loads(REFERENCE.read_text())["starts"][f"{group}/{case}"]
    torch.testing.assert_close(start(case, group), expected, atol=1e-4, rtol=0.01)


def write_reference() -> None:
    stems = [(g, p.stem) for g in ("decoder", "head") for p in sorted((FOLDER / g).glob("*.yaml"))]
    reference = {
        "images": {case: summary(case) for case in DECODERS},
        "heads": {case: head_summary(case) for case in HEADS},
        "starts": {f"{g}/{c}": start(c, g) for g, names in (("decoder", DECODERS), ("head", HEADS)) for c in names},
        "parameters": {f"{group}/{name}": full_size(group, name) for group, name in stems},
    }
    REFERENCE.write_text(
        "{\n"
        + ",\n".join(
            f'"{part}": {{\n' + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in values.items()) + "\n}"
            for part, values in reference.items()
        )
        + "\n}\n"
    )


if __name__ == "__main__":
    write_reference()
