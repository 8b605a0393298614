"""Which weights decay, held against each project's own rule applied to the names in its own files."""

import pytest

from imtok.configs.compose import compose_config
from imtok.tokenizers import released
from imtok.training.optim.optimizers import parameter_groups

from .compared import imported, read

# 1d-tokenizer, utils/train_utils.py: none of these in the name; One-D-Piece's older list lacks the plain "embed".
ONE_D_PIECE = ("ln", "bias", "latent_tokens", "mask_token", "embedding", "norm", "gamma")
TITOK = (*ONE_D_PIECE, "embed")
CASES = [
    ("titok", "titok_s128/stage2", TITOK),
    ("titok_single_stage", "titok_bl64_vq", TITOK),
    ("ta_titok", "ta_titok_bl32_vq", TITOK),
    ("one_d_piece", "one_d_piece_s256/stage2", ONE_D_PIECE),
    ("gigatok", "gigatok_ss", None),  # everything decays
]


@pytest.mark.parametrize(("system", "experiment", "spared"), CASES, ids=[case[0] for case in CASES])
def test_decay_is_the_published_rule(parity_folder, system, experiment, spared):
    constructor, state, _ = read(parity_folder / system)
    theirs_of = {ours: theirs for theirs, ours in released.find(system).names(dict(state), constructor).items()}
    tokenizer = imported(parity_folder / system, system)
    node = compose_config("train", [f"experiment={experiment}"])["optimizer"]
    groups = parameter_groups(
        [tokenizer], weight_decay=node["weight_decay"], decay=node["decay"], no_decay=node["no_decay"]
    )
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    trained = {name: parameter for name, parameter in tokenizer.named_parameters() if parameter.requires_grad}
    assert len(set(trained) & set(theirs_of)) > 0.9 * len(trained)
    for ours in set(trained) & set(theirs_of):
        parameter, theirs = trained[ours], theirs_of[ours]
        ndim = state[theirs].ndim if theirs in state else parameter.ndim
        expected = spared is None or (ndim >= 2 and not any(word in theirs for word in spared))
        assert (id(parameter) in decayed) == expected, f"{ours} ({theirs})"
