"""VQGAN's network and MoVQ's, from a published state dict by its own names, with plain functions of torch."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Normed = Callable[[str, Tensor], Tensor]


def conv(state: State, name: str, x: Tensor, **how: int) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=how.pop("padding", weight.shape[-1] // 2), **how)


def group_norm(state: State) -> Normed:
    return lambda name, x: F.group_norm(x, 32, state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)


def spatial_norm(state: State, codes: Tensor) -> Normed:
    """MoVQ's: the codes, brought to the size by nearest neighbour, give a scale and a shift at each place."""

    def normed(name: str, x: Tensor) -> Tensor:
        seen = F.interpolate(codes, x.shape[-2:], mode="nearest")
        return group_norm(state)(f"{name}.norm_layer", x) * conv(state, f"{name}.conv_y", seen) + conv(
            state, f"{name}.conv_b", seen
        )

    return normed


def block(state: State, name: str, x: Tensor, normed: Normed) -> Tensor:
    h = conv(state, f"{name}.conv1", F.silu(normed(f"{name}.norm1", x)))
    h = conv(state, f"{name}.conv2", F.silu(normed(f"{name}.norm2", h)))
    return h + (conv(state, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in state else x)


def attention(state: State, name: str, x: Tensor, normed: Normed) -> Tensor:
    q, k, v = (conv(state, f"{name}.{part}", normed(f"{name}.norm", x)).flatten(2) for part in "qkv")
    weights = (q.transpose(1, 2) @ k / q.shape[1] ** 0.5).softmax(dim=2)
    return x + conv(state, f"{name}.proj_out", (v @ weights.transpose(1, 2)).view(x.shape))


def middle(state: State, side: str, x: Tensor, normed: Normed) -> Tensor:
    x = block(state, f"{side}.mid.block_1", x, normed)
    return block(state, f"{side}.mid.block_2", attention(state, f"{side}.mid.attn_1", x, normed), normed)


def level(state: State, stem: str, x: Tensor, normed: Normed) -> Tensor:
    number = 0
    while f"{stem}.block.{number}.conv1.weight" in state:
        x = block(state, f"{stem}.block.{number}", x, normed)
        if f"{stem}.attn.{number}.q.weight" in state:
            x = attention(state, f"{stem}.attn.{number}", x, normed)
        number += 1
    return x


def decoded(state: State, z: Tensor, *, side: str = "decoder", codes: Tensor | None = None, levels: int) -> Tensor:
    """Plain upsampling; codes: what MoVQ's norms read."""
    normed = group_norm(state) if codes is None else spatial_norm(state, codes)
    x = middle(state, side, conv(state, f"{side}.conv_in", z), normed)
    for number in reversed(range(levels)):
        x = level(state, f"{side}.up.{number}", x, normed)
        if number:
            x = conv(state, f"{side}.up.{number}.upsample.conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))
    return conv(state, f"{side}.conv_out", F.silu(normed(f"{side}.norm_out", x)))


def encoded(state: State, images: Tensor, *, side: str = "encoder", levels: int) -> Tensor:
    """Plain downsampling: stride 2, padded on the right and at the bottom."""
    normed, x = group_norm(state), conv(state, f"{side}.conv_in", images)
    for number in range(levels):
        x = level(state, f"{side}.down.{number}", x, normed)
        if number < levels - 1:
            x = conv(state, f"{side}.down.{number}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
    return conv(state, f"{side}.conv_out", F.silu(normed(f"{side}.norm_out", middle(state, side, x, normed))))


def random_network(
    side: str, *, ch: int, ch_mult: list[int], blocks: int, attn: list[int], z_channels: int, zq: int | None = None
) -> State:
    """Weights of an encoder (`side` ends so) or decoder with plain resampling; zq: width of what its norms read."""
    state: State = {}
    outward = side.endswith("decoder")

    def add(name: str, out: int, given: int, kernel: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, given, kernel, kernel) * (given * kernel**2) ** -0.5
        state[f"{name}.bias"] = torch.randn(out) * 0.1

    def norm(name: str, width: int) -> None:
        stem = name if zq is None else f"{name}.norm_layer"
        state[f"{stem}.weight"], state[f"{stem}.bias"] = 1 + torch.randn(width) * 0.1, torch.randn(width) * 0.1
        for part in () if zq is None else ("conv_y", "conv_b"):
            add(f"{name}.{part}", width, zq or 0, 1)

    def res(name: str, given: int, out: int) -> None:
        norm(f"{name}.norm1", given), add(f"{name}.conv1", out, given, 3)
        norm(f"{name}.norm2", out), add(f"{name}.conv2", out, out, 3)
        if given != out:
            add(f"{name}.nin_shortcut", out, given, 1)

    def attend(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            add(f"{name}.{part}", width, width, 1)

    def ends(width: int) -> Iterator[tuple[int, int]]:
        res(f"{side}.mid.block_1", width, width), attend(f"{side}.mid.attn_1", width)
        res(f"{side}.mid.block_2", width, width)
        order = range(len(ch_mult))
        for number in reversed(order) if outward else order:
            yield number, ch * ch_mult[number]

    before = ch * ch_mult[-1] if outward else ch
    add(f"{side}.conv_in", before, z_channels if outward else 3, 3)
    for number, width in ends(ch * ch_mult[-1]):
        stem = f"{side}.{'up' if outward else 'down'}.{number}"
        for index in range(blocks + outward):
            res(f"{stem}.block.{index}", before, width)
            before = width
            if number in attn:
                attend(f"{stem}.attn.{index}", width)
        if number != (0 if outward else len(ch_mult) - 1):
            add(f"{stem}.{'up' if outward else 'down'}sample.conv", width, width, 3)
    norm(f"{side}.norm_out", before)
    add(f"{side}.conv_out", 3 if outward else z_channels, before, 3)
    return state
