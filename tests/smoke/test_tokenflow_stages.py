"""TokenFlow's decoder stages: what they take from the stage before, and what trains."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from imtok.configs.compose import compose_config
from imtok.training.run import run


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokenflow_b_decoder", "tokenflow_b_enhanced"])
def test_only_the_pixel_decoder_moves(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path / "cache"))
    states = {}
    for name in ("tokenflow_b", stage):
        words = [f"experiment={name}", "debug=tiny", "data=generated", "evaluate_after=false", "trainer.threads=1"]
        if name != "tokenflow_b":
            first = tmp_path / "tokenflow_b" / "tokenizer"
            parts = ("encoder", "quantizer", "heads", "decoder.decoder.project")
            given = ",".join(f"{part}: '{first}'" for part in parts)
            words.append(f"init_from='{first}'" if stage.endswith("_decoder") else f"init_from={{{given}}}")
        assert run(compose_config("train", words), overrides=words, folder=tmp_path / name) == 0
        states[name] = load_file(tmp_path / name / "tokenizer" / "model.safetensors")
    before, after = states.values()
    moved = {key for key in after if key not in before or before[key].ne(after[key]).any()}
    assert moved and all(key.startswith("decoder.decoder.") for key in moved)
    assert not any(key.startswith("decoder.decoder.project.") for key in moved)
    assert set(before) == set(after) or stage == "tokenflow_b_enhanced"
