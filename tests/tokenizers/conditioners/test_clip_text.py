"""Captions through a CLIP's text tower: open_clip's own features, never saved, missing captions an error."""

from pathlib import Path

import pytest
import torch

from imtok import from_pretrained
from imtok.common.build import build
from imtok.common.errors import MissingWeights, UserError
from imtok.configs.compose import compose_config
from imtok.scripts.decode import main as decode
from imtok.scripts.encode import main as encode
from imtok.tokenizers.conditioners.clip_text import CLIPText

open_clip = pytest.importorskip("open_clip")
TINY = {"weights": "random", "width": 32, "depth": 2, "num_heads": 2, "length": 16}


def test_features_are_every_token_after_the_last_norm() -> None:
    conditioner = CLIPText(**TINY)
    made = conditioner(["a red circle", "a blue square on the left"])
    assert made.shape == (2, 16, 32) and conditioner.dim == 32 and not made.requires_grad
    tower = conditioner.tower
    ids = open_clip.tokenize(["a red circle"], context_length=16)
    with torch.no_grad():
        x = tower.token_embedding(ids) + tower.positional_embedding
        causal = torch.full((16, 16), float("-inf")).triu(1)
        x = tower.ln_final(tower.transformer(x, attn_mask=causal))
    torch.testing.assert_close(made[:1], x, atol=1e-5, rtol=1e-4)
    assert torch.equal(CLIPText(**TINY)(["a red circle"]), conditioner(["a red circle"])), "random is seeded"


def test_the_tower_is_in_no_state_dict() -> None:
    conditioner = CLIPText(**TINY)
    conditioner(["a"])
    assert not conditioner.state_dict() and not list(conditioner.parameters())
    assert conditioner.double().tower.ln_final.weight.dtype == torch.float64, "but it moves along"


def test_mistakes_are_one_line(monkeypatch) -> None:
    with pytest.raises(UserError, match="give a list of captions"):
        CLIPText(**TINY)("a caption")
    with pytest.raises(UserError, match=r"tokenizer.conditioner.weights=nowhere.pt: no such file"):
        CLIPText(weights="nowhere.pt")(["a"])

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "create_model", refuse)
    with pytest.raises(MissingWeights, match=r"weights=pretrained: OpenAI's ViT-L-14-336 is not here.*PATH"):
        CLIPText()(["a"])


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    config = compose_config("train", ["experiment=ta_titok_bl32_vq", "debug=tiny", "data=generated"])
    build(config["tokenizer"], key="tokenizer").eval().save_pretrained(str(tmp_path / "model"))
    return tmp_path / "model"


def test_a_tokenizer_asks_for_captions(tokenizer_folder) -> None:
    tokenizer, images = from_pretrained(tokenizer_folder), torch.rand(2, 3, 32, 32)
    indices = tokenizer.tokenize(images)
    with pytest.raises(UserError, match="this tokenizer's decoder reads captions"):
        tokenizer.detokenize(indices)
    with pytest.raises(UserError, match="images come without captions"):
        tokenizer.conditions_of({"image": images})
    one, two = (tokenizer.detokenize(indices, conditions=tokenizer.conditioner([c] * 2)) for c in ("a cat", "a dog"))
    assert not torch.equal(one, two)


def test_encode_needs_no_captions_and_decode_takes_a_file(tokenizer_folder, tmp_path, capsys) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), "red").save(tmp_path / "in" / f"{name}.png")
    model = ["--model", str(tokenizer_folder)]
    assert encode([str(tmp_path / "in"), *model, "--out", str(tmp_path / "tokens")]) == 0
    command = [str(tmp_path / "tokens"), *model, "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="--captions is missing"):
        decode(command)
    captions = tmp_path / "captions.json"
    captions.write_text('{"a.png": "a red picture"}')
    with pytest.raises(UserError, match=r"none for 'b.png'"):
        decode([*command, "--captions", str(captions)])
    captions.write_text('{"a.png": "a red picture", "b.png": "another"}')
    assert decode([*command, "--captions", str(captions)]) == 0
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png"]
    capsys.readouterr()
