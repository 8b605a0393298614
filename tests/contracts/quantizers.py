"""What every quantizer promises, as plain functions of its YAML node; `check_quantizer(node)` runs them all."""

import re
from copy import deepcopy
from typing import Any, get_type_hints

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from imtok.common.build import build, locate
from imtok.common.errors import UserError
from imtok.common.types import Quantized, Stream, StreamShape
from imtok.tokenizers.quantizers.base import Quantizer

Node = dict[str, Any]
DIM, GRID = 16, (4, 6)
# Settings that cost memory or make an index too large, and those that are lists.
SIZES = ("codebook_size", "semantic_size", "sub_size", "codebooks", "stages", "parts", "groups", "bits", "code_dim")
SIZES += ("latent_dim", "levels", "components", "nearest", "phi_convs")
LISTS = ("levels", "scales", "anneal")
SHAPE = StreamShape(24, GRID)


def check_quantizer(node: Node) -> None:
    """node: `_target_` and settings, as in configs/tokenizer/quantizer; an AssertionError says what does not hold."""
    for check in CHECKS:
        check(node)


def make(node: Node) -> Quantizer:
    return build(node, key="tokenizer.quantizer", dim=given_dim(node))


def given_dim(node: dict[str, Any]) -> int | dict[str, int]:
    """One width, or one for each of the streams that the quantizer's class or its YAML names."""
    streams = tuple(node.get("quantizers") or locate(node["_target_"], key="quantizer").reads)
    return DIM if streams == ("main",) else dict.fromkeys(streams, DIM)


def streams_of(quantizer: Quantizer) -> tuple[str, ...]:
    return ("main",) if isinstance(quantizer.dim, int) else tuple(quantizer.dim)


def shapes_of(quantizer: Quantizer) -> dict[str, StreamShape]:
    return dict.fromkeys(streams_of(quantizer), SHAPE)


def width(quantizer: Quantizer, stream: str) -> int:
    return quantizer.out_dim if isinstance(quantizer.out_dim, int) else quantizer.out_dim[stream]


def latents(quantizer: Quantizer, batch: int = 3) -> dict[str, Stream]:
    return {stream: Stream(torch.randn(batch, 24, DIM), GRID) for stream in streams_of(quantizer)}


def same_codes(one: Quantized, other: Quantized) -> bool:
    return set(one.codes) == set(other.codes) and all(
        torch.equal(one.codes[k].x_BND, other.codes[k].x_BND) for k in one.codes
    )


def same_indices(one: Quantized, other: Quantized) -> bool:
    return set(one.indices) == set(other.indices) and all(
        torch.equal(one.indices[k], other.indices[k]) for k in one.indices
    )


def indices_fit_the_declared_layout(node: Node) -> None:
    quantizer = make(node).eval()
    out = quantizer(latents(quantizer))
    layout = quantizer.index_layout(shapes_of(quantizer))
    assert set(out.indices) == {s.stream for s in layout}  # none where the bottleneck is continuous
    for stream, indices in out.indices.items():
        segments = [s for s in layout if s.stream == stream]
        assert indices.dtype == torch.int64
        assert indices.shape == (3, sum(s.length for s in segments), len(segments[0].vocabulary))
        for part, segment in zip(indices.split([s.length for s in segments], dim=1), segments, strict=True):
            assert int(part.min()) >= 0
            assert bool((part.amax(dim=(0, 1)) < torch.tensor(segment.vocabulary)).all())
    assert set(out.codes) == set(streams_of(quantizer))
    for stream, codes in out.codes.items():
        assert codes.x_BND.shape == (3, 24, width(quantizer, stream))
        assert codes.grid == GRID
    assert (quantizer.bits(shapes_of(quantizer)) > 0) == bool(layout)


def indices_say_the_codes(node: Node) -> None:
    quantizer = make(node).eval()
    out, shapes = quantizer(latents(quantizer)), shapes_of(quantizer)
    if not quantizer.index_layout(shapes):
        with pytest.raises(ValueError, match="continuous"):
            quantizer.indices_to_codes(out.indices, shapes)
        return
    again = quantizer.indices_to_codes(out.indices, shapes)
    for stream, codes in out.codes.items():
        torch.testing.assert_close(again[stream].x_BND, codes.x_BND)


def gradients_reach_the_encoder_and_losses_are_declared(node: Node) -> None:
    quantizer = make(node).train()
    given = latents(quantizer)
    for stream in given.values():
        stream.x_BND.requires_grad_()
    out = quantizer(given)
    assert set(out.losses) == set(quantizer.loss_names)
    sum((c.x_BND * torch.randn(3, 24, width(quantizer, s))).sum() for s, c in out.codes.items()).backward()
    for stream in given.values():
        assert float(stream.x_BND.grad.abs().sum()) > 0
    for loss in out.losses.values():
        assert loss.shape == ()
        assert bool(torch.isfinite(loss))
    for number in out.stats.values():
        assert number.shape == ()
        assert not number.requires_grad


def eval_repeats_itself(node: Node) -> None:
    quantizer = make(node).eval()
    given = latents(quantizer)
    first, second = quantizer(given), quantizer(given)
    if not quantizer.stochastic:
        assert same_indices(first, second)
        assert same_codes(first, second)


def autocast_changes_nothing(node: Node) -> None:
    quantizer = make(node).eval()
    given = latents(quantizer)
    expected = quantizer(given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = quantizer(given)
        half = quantizer({name: Stream(stream.x_BND.bfloat16(), GRID) for name, stream in given.items()})
    assert same_indices(actual, expected)
    assert same_codes(actual, expected)
    assert all(codes.x_BND.dtype == torch.float32 for codes in half.codes.values())


def training_never_waits_for_the_device(node: Node) -> None:
    """Tensors without values refuse `item`, `bool`, `nonzero`, `bincount`: what would stall a GPU.

    PCA asks while it fits, which is off here.
    """

    def calm(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: 0 if k == "fit_updates" else calm(v) for k, v in node.items()}
        return node

    with FakeTensorMode():
        quantizer = build(calm(node), key="tokenizer.quantizer", dim=given_dim(node)).train()
        given = latents(quantizer)
        for stream in given.values():
            stream.x_BND.requires_grad_()
        out = quantizer(given)
        (sum(codes.x_BND.sum() for codes in out.codes.values()) + sum(out.losses.values())).backward()


def masked_tokens_have_index_minus_one_and_come_back_masked(node: Node) -> None:
    quantizer = make(node).eval()
    given, shapes = latents(quantizer), shapes_of(quantizer)
    mask = torch.rand(3, 24) > 0.3
    for stream in given.values():
        stream.mask_BN = mask
    layout = quantizer.index_layout(shapes)
    if layout and sum(s.length for s in layout) != 24 * len(given):  # an index speaks of several tokens
        with pytest.raises(ValueError, match="masked"):
            quantizer(given)
        return
    out = quantizer(given)
    for stream in given:
        if not layout:
            assert torch.equal(out.codes[stream].mask_BN, mask)
            continue
        assert torch.equal(out.indices[stream][..., 0] >= 0, mask)
        again = quantizer.indices_to_codes(out.indices, shapes)[stream]
        assert torch.equal(again.mask_BN, mask)
        torch.testing.assert_close(again.x_BND, out.codes[stream].x_BND)
        assert not bool(again.x_BND[~mask].any())


def masked_tokens_count_for_nothing(node: Node) -> None:
    """Losses, running means, revival and gradients are those of the tokens that are there, whatever the others hold."""
    quantizer = make(node).train()
    layout = quantizer.index_layout(shapes_of(quantizer))
    given = latents(quantizer)
    if layout and sum(s.length for s in layout) != 24 * len(given):
        return  # its indices speak of several tokens; it refuses masks
    alone = deepcopy(quantizer)
    mask = torch.rand(3, 24) > 0.3
    for stream in given.values():
        stream.mask_BN = mask
        stream.x_BND[~mask] = torch.nan
        stream.x_BND.requires_grad_()
    torch.manual_seed(1)
    out = quantizer(given)
    torch.manual_seed(1)
    expected = alone({name: Stream(stream.x_BND.detach()[mask][None]) for name, stream in given.items()})
    torch.testing.assert_close(out.losses, expected.losses)
    torch.testing.assert_close(quantizer.state_dict(), alone.state_dict())
    (sum(codes.x_BND.sum() for codes in out.codes.values()) + sum(out.losses.values())).backward()
    for name, stream in given.items():
        if layout:
            assert torch.equal(out.indices[name][mask], expected.indices[name][0])
            assert bool((out.indices[name][~mask] == -1).all())
        assert not bool(out.codes[name].x_BND[~mask].any())
        grad = stream.x_BND.grad
        assert bool(torch.isfinite(grad).all()) and not bool(grad[~mask].any()) and bool(grad[mask].any())


def a_batch_without_a_token_has_finite_losses(node: Node) -> None:
    """A rank may get one; a NaN of its would make all ranks skip the update."""
    quantizer = make(node).train()
    given = latents(quantizer)
    layout = quantizer.index_layout(shapes_of(quantizer))
    if layout and sum(s.length for s in layout) != 24 * len(given):
        return  # its indices speak of several tokens; it refuses masks
    for stream in given.values():
        stream.mask_BN = torch.zeros(3, 24, dtype=torch.bool)
        stream.x_BND.requires_grad_()
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    out = quantizer(given)
    assert all(bool(torch.isfinite(loss)) for loss in out.losses.values()), out.losses
    (sum(codes.x_BND.sum() for codes in out.codes.values()) + sum(out.losses.values())).backward()
    for key, value in quantizer.state_dict().items():
        assert bool(torch.isfinite(value).all()) or torch.equal(value, before[key]), key


def state_survives_saving(node: Node) -> None:
    quantizer = make(node)
    given = latents(quantizer)
    quantizer.train()(given)
    copy = make(node)
    copy.load_state_dict(quantizer.state_dict())
    mine, copied = quantizer.eval()(given), copy.eval()(given)
    assert same_indices(mine, copied)
    assert same_codes(mine, copied)


def impossible_numbers_fail_at_build_with_their_key(node: Node) -> None:
    """No setting of any quantizer may be negative, and no size may be 2^40: more than memory, or than an index."""
    for key, hint in get_type_hints(locate(node["_target_"], key="").__init__).items():
        if key in ("dim", "return") or not {"int", "float"} & set(re.findall(r"\w+", str(hint))):
            continue
        values = [-1, 2**40] if key in SIZES else [-1]
        for value in values:
            with pytest.raises(UserError, match=rf"^tokenizer\.quantizer\.{key}="):
                build(node | {key: [value] if key in LISTS else value}, key="tokenizer.quantizer", dim=given_dim(node))


def nonsense_width_fails_at_build(node: Node) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.quantizer\.dim=7"):
        build(node | {"dim": 7}, key="tokenizer.quantizer", dim=given_dim(node))


CHECKS = (
    indices_fit_the_declared_layout,
    indices_say_the_codes,
    gradients_reach_the_encoder_and_losses_are_declared,
    eval_repeats_itself,
    autocast_changes_nothing,
    training_never_waits_for_the_device,
    masked_tokens_have_index_minus_one_and_come_back_masked,
    masked_tokens_count_for_nothing,
    a_batch_without_a_token_has_finite_losses,
    state_survives_saving,
    impossible_numbers_fail_at_build_with_their_key,
    nonsense_width_fails_at_build,
)
