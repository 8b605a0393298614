"""FlexTok (apple/ml-flextok): registers from a VAE's latents, FSQ, a rectified-flow decoder.

The weights name their modules by the wiring of the config stored beside them (`encoder.module_dict.enc_...`).
"""

import re
from typing import ClassVar

import torch
from torch import Tensor

from ...common.errors import UserError
from ...common.types import Grid, Stream
from ...decoders.flow.decoder import FlowDecoder
from ...decoders.flow.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from ...decoders.flow.rectified import on_the_line
from ...layers.patches import sincos_grid
from ..quantizers.fsq import FSQ
from ..spaces import autoencoder_kl
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class
from .names import count_of, renamed

ENCODER, DECODER = "encoder.module_dict.", "decoder.module_dict."
VAE = "vae.vae."
TABLES = (ENCODER + "enc_posemb_module.posembs", DECODER + "dec_patches_posemb_module.posembs")
OUR_NAMES = {
    ENCODER + "enc_patch_emb.patch_proj": "encoder.patches",
    ENCODER + "enc_register_module.registers": "encoder.registers",
    ENCODER + "enc_to_latents.proj": "encoder.to_latents",
    DECODER + "dec_from_latents.proj": "decoder.from_codes",
    DECODER + "dec_registers_posemb_module.posembs": "decoder.token_positions",
    DECODER + "dec_nested_dropout.dropout_mask_token": "decoder.mask_vector",
    DECODER + "dec_latent_dropout.nullcond": "decoder.no_codes",
    DECODER + "dec_noise_patch_emb.patch_proj": "decoder.patches",
    DECODER + "dec_time_embedder.mlp": "decoder.time",
    DECODER + "dec_to_patches.proj": "decoder.to_patches",
    DECODER + "dec_to_patches.adaLN_modulation.1": "decoder.modulation",
}
OUR_BLOCK_NAMES = {
    "attn.wq": "attention.q",
    "attn.wk": "attention.k",
    "attn.wv": "attention.v",
    "attn.proj": "attention.project",
    "mlp.fc1": "mlp.gate",
    "mlp.fc2": "mlp.down",
    "mlp.fc3": "mlp.up",
    "adaLN_modulation.1": "modulation",
}
BLOCK = re.compile(r"(encoder|decoder)\.module_dict\.(?:enc|dec)_transformer\.blocks\.(\d+)\.(.+)\.(weight|bias)")
SAMPLE = re.compile(r"sample_(\d+)steps(?:_(keep_k)|_(cfg|apg)(\d+)p(\d+))?$")


class FlexTok(ReleasedFamily):
    systems: ClassVar[tuple[str, ...]] = ("flextok",)

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        patch_size, head_dim = constructor.get("patch", 2), constructor.get("head_dim", 64)
        code_width = state[ENCODER + "enc_to_latents.proj.weight"].shape[0]
        num_tokens = state[ENCODER + "enc_register_module.registers"].shape[0]
        levels = list(constructor.get("levels", (8, 8, 8, 5, 5, 5)))  # FSQ stores nothing
        if len(levels) != code_width:
            raise UserError(f"the weights' codes have {code_width} channels, FSQ's levels are {levels}")
        common = {"num_tokens": num_tokens, "patch_size": patch_size, "head_dim": head_dim}
        vae = {k.removeprefix(VAE): v for k, v in state.items() if k.startswith(VAE)}
        space = {"_target_": "imtok.tokenizers.spaces.vae.VAESpace", **autoencoder_kl.sizes_of(vae)} if vae else None
        channels = state[ENCODER + "enc_patch_emb.patch_proj.weight"].shape[1] // patch_size**2
        return {
            **({"space": space} if space else {}),  # fixtures begin at the latents
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.registers.RegisterEncoder",
                "dim": code_width,
                "in_channels": channels,
                "width": state[ENCODER + "enc_patch_emb.patch_proj.weight"].shape[0],
                "depth": count_of(state, ENCODER + "enc_transformer.blocks"),
                **common,
            },
            "quantizer": {"_target_": "imtok.tokenizers.quantizers.fsq.FSQ", "levels": levels},
            "token_dropout": {"_target_": "imtok.tokenizers.token_dropout.nested.NestedDropout"},
            "decoder": {
                "_target_": "imtok.decoders.flow.decoder.FlowDecoder",
                "out_channels": channels,
                "width": state[DECODER + "dec_from_latents.proj.weight"].shape[0],
                "depth": count_of(state, DECODER + "dec_transformer.blocks"),
                "time_waves": state[DECODER + "dec_time_embedder.mlp.0.weight"].shape[1],
                "guidance": {"_target_": "imtok.decoders.flow.guidance.AdaptiveProjectedGuidance", "scale": 7.5},
                **common,
            },
        }

    def rename(self, state: State, constructor: Settings) -> Names:
        vae = autoencoder_kl.our_names(k.removeprefix(VAE) for k in state if k.startswith(VAE))
        in_space = {VAE + theirs: f"space.{ours}" for theirs, ours in vae.items()}
        return {name: our_name(name) for name in state} | in_space

    def convert(self, our_name: str, tensor: Tensor) -> Tensor:
        if our_name == "decoder.token_positions":  # [1, 1, W, N] there
            return tensor[0, 0].T.contiguous()
        return autoencoder_kl.fitted(our_name, tensor)

    def check_tables(self, state: State, *, constructor: Settings) -> set[str]:
        found = {name for name in TABLES if name in state}
        for name in found:
            table = state[name]
            grid = (table.shape[2], table.shape[3])
            ours = sincos_grid(grid, table.shape[1]).T.view(table.shape)
            if grid[0] != grid[1] or not torch.allclose(table.float(), ours, atol=1e-4):
                raise UserError(f"the file's {name} are not the sines and cosines of a square grid")
        return found

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        encoder, decoder = tokenizer.encoder, of_class(tokenizer.decoder, FlowDecoder)
        quantizer = of_class(tokenizer.quantizer, FSQ)
        z = encoder(io["latents"])["main"].x_BND
        shapes = encoder.stream_shapes(decoder.input_size)
        again = quantizer.indices_to_codes({"main": io["indices"][..., None]}, shapes)
        own = quantizer({"main": Stream(io["z"])})
        codes = {"main": Stream(io["quantized"])}
        mask_BN = torch.arange(io["quantized"].shape[1]) < io["keep_k"][:, None]
        kept = {"main": Stream(io["quantized"], mask_BN=mask_BN)}
        registers = decoder.registers(codes)

        def velocity(registers: Tensor) -> Tensor:
            return decoder.velocity(io["noised_latents"], io["timesteps"], registers)

        out = {
            "z": z,
            "bounded": quantizer.bounded(io["z"]),
            "indices": own.indices["main"][..., 0],
            "indices (end to end)": quantizer({"main": Stream(z)}).indices["main"][..., 0],
            "quantized": own.codes["main"].x_BND,
            "quantized (from indices)": again["main"].x_BND,
            "noised_latents": on_the_line(io["latents"], io["noise"], io["timesteps"]),
            "velocity": velocity(registers),
            "velocity_keep_k": velocity(decoder.registers(kept)),
            "velocity_null": velocity(decoder.no_codes.expand_as(registers)),
        }
        guidances = {"cfg": ClassifierFreeGuidance, "apg": AdaptiveProjectedGuidance}
        for name in io:
            if m := SAMPLE.match(name):
                decoder.steps = int(m[1])
                decoder.guidance = guidances[m[3]](scale=float(f"{m[4]}.{m[5]}")) if m[3] else None
                out[name] = decoder(kept if m[2] else codes, noise_BCHW=io["noise"])
        return out


def our_name(theirs: str) -> str | None:
    if m := BLOCK.match(theirs):
        inner = OUR_BLOCK_NAMES.get(m[3])
        return f"{m[1]}.blocks.{m[2]}.{inner}.{m[4]}" if inner else None
    return renamed(theirs, OUR_NAMES)
