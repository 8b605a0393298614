"""Reader of GigaTok, against its reference implementation's outputs, and of models with packed projections."""

import re

import torch

from imtok.tokenizers import released

from .compared import check_fixture, read


def test_every_output_of_the_reference(parity_folder) -> None:
    check_fixture(parity_folder / "gigatok", "gigatok")


def test_released_models_have_packed_projections_and_no_norms_of_queries(parity_folder) -> None:
    """nn.MultiheadAttention itself is the reference."""
    constructor, state, _ = read(parity_folder / "gigatok")
    packed = {}
    for name, tensor in state.items():
        if m := re.match(r"(.+_attn\.)([qkv])_proj\.(weight|bias)", name):
            packed.setdefault(f"{m[1]}in_proj_{m[3]}", {})[m[2]] = tensor
        elif re.search(r"_attn\.[qk]_norm\.", name) is None:
            packed[name.replace(".wo.", ".out_proj.")] = tensor
    packed = {k: torch.cat([v[x] for x in "qkv"]) if isinstance(v, dict) else v for k, v in packed.items()}
    tokenizer, report = released.find("gigatok").import_state(packed, image_size=32, constructor=constructor)
    assert set(report.used) == set(packed)

    stem, width = "s2to1encoder.transformer.0.multihead_attn.", 40
    theirs = torch.nn.MultiheadAttention(width, constructor["encoder"]["heads"], batch_first=True)
    theirs.load_state_dict({k.removeprefix(stem): v for k, v in packed.items() if k.startswith(stem)})
    q, k, v = torch.randn(3, 2, 7, width).unbind()
    ours = tokenizer.encoder.blocks[0].memory(q, k, v)
    torch.testing.assert_close(ours, theirs(q, k, v)[0], atol=1e-5, rtol=1e-4)
