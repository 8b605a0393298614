"""ImageFolder, XQ-GAN and RobustTok (lxa9867/ImageFolder): ViTs with latent queries, and their many quantizers.

Branch i has `quantizes.i.*`, a single one `quantize.*`: single-scale codebooks, multi-scale ones, or binary codes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...common.errors import UserError
from ...common.types import Grid, Stream
from ...layers.resnet import to_grid
from ..quantizers.base import Quantizer
from ..quantizers.multi_scale_vq import MultiScaleQuantizer
from ..quantizers.product_vq import ProductQuantizer
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, quantized_in_training
from .names import count_of, renamed

QUANTIZERS = "imtok.tokenizers.quantizers"
OUR_NAMES = {
    "quant_conv": "encoder.project",
    "post_quant_conv": "decoder.project",
    "encoder.latent_tokens": "encoder.queries",
    "encoder.lvl_embed.weight": "encoder.sets",
    "encoder.model.patch_embed.proj": "encoder.patches",
    "encoder.model": "encoder.vit",
    "decoder.mask_token": "decoder.mask_token",
    "decoder.lvl_embed.weight": "decoder.sets",
    "decoder.to_pixel.model": "decoder.to_pixels",
    "decoder.model": "decoder.vit",
}
BRANCH = r"quantize(?:s\.(\d+))?\."
PHI = r"quant_resi\.(?:qresi_ls\.(\d+)|(\d+)|qresi)\."  # shared by neighbouring scales, one a scale, one for all
PUBLISHED_SCALES = {(10, 11): [1, 1, 2, 3, 3, 4, 5, 6, 8, 11], (10, 16): [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]}


class XQGAN(ReleasedFamily):
    systems: ClassVar[tuple[str, ...]] = ("imagefolder", "xqgan_vq", "xqgan_bsq")
    ignored_prefixes: ClassVar[tuple[str, ...]] = ("semantic_model.", "detail_model.", "sem_linear.")

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        sizes = Sizes.of(state, constructor)
        picture = {"image_size": list(image_size), "patch_size": sizes.patch_size}
        part = quantizer_node(sizes, constructor)
        several = {"_target_": f"{QUANTIZERS}.product_vq.ProductQuantizer", "parts": sizes.branches, "part": part}
        return {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.vit_queries.QueryViTEncoder",
                "dim": sizes.branches * sizes.code_dim,
                "branches": sizes.branches,
                "latent_side": sizes.latent_side,
                **picture,
                **vit_sizes(state, "encoder", constructor.get("encoder", {})),
            },
            "quantizer": several if sizes.branches > 1 else part,
            "decoder": {
                "_target_": "imtok.decoders.vit_queries.QueryViTDecoder",
                **picture,
                **vit_sizes(state, "decoder", constructor.get("decoder", {})),
            },
        }

    def rename(self, state: State, constructor: Settings) -> Names:
        branches = Sizes.branches_of(state)
        return {name: our_name(name, branches) for name in state}

    def convert(self, our_name: str, tensor: Tensor) -> Tensor:
        if our_name == "encoder.queries":
            return tensor[0]
        # 1x1 convolutions there, linear layers here.
        return tensor.flatten(1) if our_name.endswith(".project.weight") else tensor

    def check_tables(self, state: State, *, constructor: Settings) -> set[str]:
        """Which set a token is of, sizes of binary codes, and a running usage that only training looks at."""
        sizes = Sizes.of(state, constructor)
        patches = state["encoder.model.pos_embed"].shape[1] - 1
        latents = sizes.latent_side**2
        tables = {
            "encoder.lvl1LC": _sets([patches + 1, *[latents] * sizes.branches]),
            "decoder.lvl1LC": _sets([patches + 1, latents + 1]),
        }
        found = {name for name in tables if name in state}
        for name in found:
            if not torch.equal(state[name].long(), tables[name]):
                raise UserError(f"the file's {name} is another than {patches} patches and {latents} latent tokens need")
        for name, tensor in state.items():
            if name.endswith(".scaler"):
                if not torch.allclose(tensor.float(), sizes.code_lengths(constructor)):
                    raise UserError(f"the file's {name} is another than the published lengths of binary codes")
                found.add(name)
            elif name.endswith(".ema_vocab_hit_SV"):
                if tensor.shape[-1] != sizes.codebook_size:
                    raise UserError(f"the file's {name} counts other codes than the {sizes.codebook_size} there are")
                found.add(name)
        return found

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        quantizer = tokenizer.quantizer
        parts = list(quantizer.parts) if isinstance(quantizer, ProductQuantizer) else [quantizer]
        shapes = tokenizer.stream_shapes()
        grid = shapes["main"].grid
        assert grid is not None
        # There [B, C, branches * N, 1], or [B, C, n, n] where there is one branch; here branches side by side.
        stored_z = io["z"].flatten(2).unflatten(2, (len(parts), -1)).permute(0, 3, 2, 1).flatten(2)
        z = tokenizer.encoder(io["image"])["main"].x_BND.unflatten(2, (len(parts), -1))
        quantized = quantizer({"main": Stream(stored_z, grid)})
        out = {
            "z": z.permute(0, 3, 2, 1).flatten(2).view(io["z"].shape),
            "indices": quantized.indices["main"].transpose(1, 2),
            "indices (end to end)": tokenizer.quantize(io["image"]).indices["main"].transpose(1, 2),
            "quantized": to_grid(quantized.codes["main"].x_BND, grid),
            "quantized (from indices)": to_grid(
                quantizer.indices_to_codes({"main": io["indices"].transpose(1, 2)}, shapes)["main"].x_BND, grid
            ),
            "decoded": tokenizer.decode({"main": Stream(io["quantized"].flatten(2).transpose(1, 2), grid)}),
        }
        if "quantized_scales0" in io:
            first = quantized.indices["main"][..., 0]
            part = parts[0]
            assert isinstance(part, MultiScaleQuantizer)
            steps = [part.partial_codes(first, grid, scales=1 + s) for s in range(io["quantized_scales0"].shape[1])]
            out["quantized_scales0"] = torch.stack([to_grid(step, grid) for step in steps], dim=1)
        return {**out, **training_outputs(quantizer, parts, stored_z, grid, constructor)}


@dataclass(frozen=True)
class Sizes:
    """What shapes show of the latent side, and what the reference's arguments add."""

    branches: int
    code_dim: int
    latent_side: int
    patch_size: int
    codebook_size: int
    binary: bool
    scales: list[int]
    phi_convs: int

    @classmethod
    def of(cls, state: State, constructor: Settings) -> "Sizes":
        if "encoder.lvl_embed.weight" not in state and "encoder.latent_pos_embed" in state:
            raise UserError("the weights have encoder.latent_pos_embed: only models with abs_pos_embed=true are read")
        branches = cls.branches_of(state)
        code_dim = state["quant_conv.weight"].shape[0]
        latent_side = math.isqrt(state["encoder.latent_tokens"].shape[1] // branches)
        first = "quantizes.0." if branches > 1 else "quantize."
        codebook = state.get(first + "embedding.weight")
        hits = state.get(first + "ema_vocab_hit_SV")
        convs = {m[0] for m in map(re.compile(re.escape(first) + PHI).match, state) if m}
        return cls(
            branches=branches,
            code_dim=code_dim,
            latent_side=latent_side,
            patch_size=state["encoder.model.patch_embed.proj.weight"].shape[-1],
            codebook_size=2**code_dim if codebook is None else len(codebook),
            binary=codebook is None,
            scales=_scales(hits, bool(convs), latent_side, constructor),
            phi_convs=len(convs),
        )

    @staticmethod
    def branches_of(state: State) -> int:
        return state["encoder.lvl_embed.weight"].shape[0] - 1

    def code_lengths(self, constructor: Settings) -> Tensor:
        """[scales], size of a binary code's entries."""
        lengths = torch.tensor(float(constructor.get("scale", 1.0))) ** torch.arange(len(self.scales))
        return lengths / self.code_dim**0.5 if constructor.get("codebook_l2_norm", True) else lengths


def _scales(hits: Tensor | None, several: bool, latent_side: int, constructor: Settings) -> list[int]:
    if "v_patch_nums" in constructor:
        return list(constructor["v_patch_nums"])
    if not several:
        return [latent_side]
    count = hits.shape[0] if hits is not None and hits.ndim == 2 else 0
    if (count, latent_side) not in PUBLISHED_SCALES:
        raise UserError(
            f"the weights have {count} scales on a {latent_side}x{latent_side} grid, and no shape shows their sides; "
            "only the published ones are known"
        )
    return PUBLISHED_SCALES[count, latent_side]


def quantizer_node(sizes: Sizes, constructor: Settings) -> dict[str, Any]:
    """Of one branch."""
    if len(sizes.scales) == 1:
        return {
            "_target_": f"{QUANTIZERS}.vq.VQ",
            "codebook_size": sizes.codebook_size,
            "unit_length": constructor.get("codebook_l2_norm", True),
        }
    pyramid = {
        "scales": sizes.scales,
        "phi_convs": sizes.phi_convs,
        # The reference forgets to hand the share on where there is one branch.
        "quantizer_dropout": constructor.get("codebook_drop", 0.0) if sizes.branches > 1 or sizes.binary else 0.0,
        "least_stages": constructor.get("start_drop", 1),
    }
    if sizes.binary:
        if not constructor.get("codebook_l2_norm", True):
            raise UserError("codebook_l2_norm=false: binary codes of the published models lie on the unit sphere")
        return {
            "_target_": f"{QUANTIZERS}.multi_scale_bsq.MultiScaleBSQ",
            "bits": sizes.code_dim,
            "scale": constructor.get("scale", 1.0),
            **pyramid,
        }
    return {
        "_target_": f"{QUANTIZERS}.multi_scale_vq.MultiScaleVQ",
        "codebook_size": sizes.codebook_size,
        "commit_reduction": "sum",
        **pyramid,
    }


def vit_sizes(state: State, side: str, said: Mapping[str, Any]) -> dict[str, Any]:
    width = state[f"{side}.model.norm.weight"].shape[0]
    return {
        "width": width,
        "depth": count_of(state, f"{side}.model.blocks"),
        "num_heads": said.get("num_heads", max(1, width // 64)),  # no shape shows the heads; DINOv2's are 64 wide
        "layer_scale": 1e-5 if f"{side}.model.blocks.0.ls1.gamma" in state else None,
    }


def our_name(theirs: str, branches: int) -> str | None:
    if m := re.match(BRANCH, theirs):
        stem = f"quantizer.parts.{m[1]}" if branches > 1 else "quantizer"
        inner = theirs[m.end() :]
        if inner == "embedding.weight":
            return f"{stem}.codebook"
        phi = re.match(PHI, inner)
        return f"{stem}.phi.convs.{phi[1] or phi[2] or 0}.{inner[phi.end() :]}" if phi else None
    return renamed(theirs, OUR_NAMES)


def _sets(lengths: list[int]) -> Tensor:
    return torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])[None]


def training_outputs(
    quantizer: Quantizer, parts: Sequence[Quantizer], z_BND: Tensor, grid: Grid, constructor: Settings
) -> dict[str, Tensor]:
    """A training forward without quantizer dropout."""
    staged = [part for part in parts if isinstance(part, MultiScaleQuantizer)]
    shares = [part.quantizer_dropout for part in staged]
    for part in staged:
        part.quantizer_dropout = 0.0
    quantized = quantized_in_training(quantizer, {"main": Stream(z_BND, grid)})
    # The reference indexes by its keep-mask of ones instead of masking: its entropy is that of sample 1.
    entropy = quantized_in_training(quantizer, {"main": Stream(z_BND[1:2], grid)}).losses.get("entropy")
    for part, share in zip(staged, shares, strict=True):
        part.quantizer_dropout = share
    # Only the single-scale quantizer is given the reference's beta; the others keep 0.25.
    beta = 0.25 if staged else constructor.get("commit_loss_beta", 0.25)
    out = {
        "quantized_train": to_grid(quantized.codes["main"].x_BND, grid),
        "codebook_loss": quantized.losses["codebook"],
        "commitment_loss": beta * quantized.losses["commit"],
    }
    if entropy is not None:
        out["entropy_loss"] = constructor.get("entropy_loss_ratio", 0.1) * entropy
    return out
