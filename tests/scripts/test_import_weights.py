"""Released checkpoints, as files of several kinds, into a folder that from_pretrained reads."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imtok.common.errors import UserError
from imtok.scripts.import_weights import main
from imtok.tokenizers.hub import from_pretrained

FIXTURES = Path(os.environ.get("IMTOK_PARITY", Path(__file__).parents[3] / "shared" / "parity"))
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="no parity fixtures beside the clone")


@needs_fixtures
@pytest.mark.parametrize("system", ["vqgan", "llamagen_vq16"])
def test_training_checkpoint_with_other_parts(system, tmp_path, capsys):
    state = load_file(FIXTURES / system / "weights.safetensors")
    extra = "loss.discriminator.main.0.weight" if system == "vqgan" else "quantize.codebook_used"
    key = "state_dict" if system == "vqgan" else "model"
    torch.save({key: {**state, extra: torch.zeros(4)}, "global_step": 3}, tmp_path / "last.ckpt")
    words = [str(tmp_path / "last.ckpt"), "--system", system, "--out", str(tmp_path / "out"), "--image-size", "64"]
    words += ["--config", str(FIXTURES / system / "config.json")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"{len(state)} of {len(state) + 1} tensors used" in said and extra in said
    io = load_file(FIXTURES / system / "io.safetensors")
    indices = from_pretrained(tmp_path / "out").tokenize(io["image"])
    assert torch.equal(indices.flatten(), io["indices"].flatten())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["training"]["system"] == system


class Payload:
    def __reduce__(self):
        return (os.system, ("true",))


def test_a_pickle_with_code_is_refused(tmp_path):
    torch.save({"state_dict": {"x": torch.zeros(1)}, "callback": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="not allowed"):
        main([str(tmp_path / "evil.ckpt"), "--system", "vqgan", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@needs_fixtures
def test_weights_of_another_family_are_refused(tmp_path):
    words = [str(FIXTURES / "llamagen_vq16" / "weights.safetensors"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="not of the family"):
        main([*words, "--system", "vqgan"])
    with pytest.raises(UserError, match="did you mean 'llamagen_vq16'"):
        main([*words, "--system", "llamagen_vq15"])


def test_list_and_missing_words(capsys):
    assert main(["--list"]) == 0
    assert {"vqgan", "llamagen_vq16", "llamagen_vq8"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines()
    }
    with pytest.raises(UserError, match="--system is missing"):
        main(["file.pt"])


@needs_fixtures
def test_unitoks_text_tower_comes_along_for_evaluation(tmp_path, capsys):
    """Built from open_clip's own transformer: the same vectors, and pictures' as the reference stored them."""
    import open_clip
    from open_clip.transformer import TextTransformer

    from imtok.eval.probes.alignment import load_alignment
    from imtok.eval.probes.pooled_codes import encoded

    folder = FIXTURES / "unitok"
    state, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    width = len(state["projection.weight"])
    text = TextTransformer(context_length=20, width=64, heads=1, layers=2, output_dim=width).eval()
    given = state | {f"text_encoder.{k}": v for k, v in text.state_dict().items()}
    config = json.loads((folder / "config.json").read_text())
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(config["constructor"] | config["size_overrides"]))
    words = ["--system", "unitok", "--config", str(settings), "--image-size", str(config["image_size"])]

    def imported(name, tensors):
        torch.save(tensors, tmp_path / f"{name}.pt")
        assert main([str(tmp_path / f"{name}.pt"), *words, "--out", str(tmp_path / name)]) == 0
        tokenizer = from_pretrained(tmp_path / name)
        return tokenizer, load_alignment(tmp_path / name, tokenizer)

    tokenizer, alignment = imported("whole", given)
    assert "tensors of the text tower in" in capsys.readouterr().out
    term = alignment.terms["clip_infonce"]
    captions = ["a red circle", "two dogs"]
    numbers = open_clip.SimpleTokenizer(context_length=20)(captions)
    with torch.no_grad():
        torch.testing.assert_close(term.texts(captions), text(numbers))
        vectors = torch.nn.functional.normalize(term.images(encoded(tokenizer, io["image"])), dim=-1)
    torch.testing.assert_close(vectors, io["clip_image_features"], rtol=1e-3, atol=1e-4)
    assert float(term.log_scale) == float(state["logit_scale"])

    _, alignment = imported("bare", state)
    assert not alignment.terms and "left out" in (said := capsys.readouterr().out) and "(logit_scale)" in said
    assert not (tmp_path / "bare" / "alignment").exists()
