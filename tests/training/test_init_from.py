import pytest
import torch
from torch import nn

from imtok.common.errors import UserError
from imtok.tokenizers.tokenizer import Tokenizer
from imtok.training.init_from import freeze_parts, init_from


@pytest.fixture
def make_tokenizer(make_node):
    def make(seed: int, **quantizer) -> Tokenizer:
        torch.manual_seed(seed)
        return Tokenizer(**make_node(**quantizer))

    return make


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_parts_are_loaded_and_the_rest_stays_fresh(make_tokenizer, tmp_path, capsys):
    source, target, fresh = make_tokenizer(0), make_tokenizer(1), make_tokenizer(1)
    source.save_pretrained(tmp_path / "source")
    init_from(target, {"encoder": str(tmp_path / "source")})
    assert same(target.encoder, source.encoder) and same(target.decoder, fresh.decoder)
    assert "tensors loaded (encoder)" in capsys.readouterr().out
    init_from(target, str(tmp_path / "source"))
    assert same(target, source)


def test_what_does_not_fit_is_refused_by_name(make_tokenizer, tmp_path):
    make_tokenizer(0).save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match=r"quantizer\.codebook \[16, 8\] instead of \[32, 8\]"):
        init_from(make_tokenizer(0, codebook_size=32), str(tmp_path / "source"))
    with pytest.raises(UserError, match=r"init_from\.encodr=.*did you mean 'encoder'"):
        init_from(make_tokenizer(0), {"encodr": str(tmp_path / "source")})
    with pytest.raises(UserError, match=r"^init_from=.*nowhere"):
        init_from(make_tokenizer(0), str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="freeze: the tokenizer has no part 'quantiser'; did you mean 'quantizer'"):
        freeze_parts(make_tokenizer(0), ["quantiser"])
    with pytest.raises(UserError, match=r"the encoder would stand still; freeze=\[encoder,quantizer\]"):
        freeze_parts(make_tokenizer(0), ["quantizer"])


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("encoder.convin", "freeze: encoder has no part 'encoder.convin'; did you mean 'encoder.conv_in'"),
        ("encoder.conv_in.wieght", "encoder.conv_in has no part .*did you mean 'encoder.conv_in.weight'"),
        ("encoder.conv_in.weight.grad", "'encoder.conv_in.weight.grad' goes on .*; give 'encoder.conv_in.weight'"),
        ("encoder.", "encoder has no part 'encoder.'"),
        ("", "the tokenizer has no part ''"),
    ],
)
def test_a_path_to_nowhere_names_the_nearest(make_tokenizer, path, said):
    with pytest.raises(UserError, match=said):
        freeze_parts(make_tokenizer(0), [path])


def test_modules_and_parameters_within_a_part_freeze_alone(make_tokenizer):
    tokenizer = make_tokenizer(0)
    freeze_parts(tokenizer, ["encoder.conv_in", "decoder.conv_out.bias"])
    frozen = {name for name, parameter in tokenizer.named_parameters() if not parameter.requires_grad}
    assert frozen == {"encoder.conv_in.weight", "encoder.conv_in.bias", "decoder.conv_out.bias"}


def test_damaged_weights_are_one_line_for_a_part_as_for_the_whole(make_tokenizer, tmp_path):
    make_tokenizer(0).save_pretrained(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    for source in (str(tmp_path / "source"), {"encoder": str(tmp_path / "source")}):
        with pytest.raises(UserError, match=r"model\.safetensors cannot be read .*damaged or cut off"):
            init_from(make_tokenizer(0), source)


def test_what_was_loaded_is_counted_and_is_not_random_any_more(make_tokenizer, tmp_path, capsys):
    make_tokenizer(0).save_pretrained(tmp_path / "source")
    source = str(tmp_path / "source")
    for given in (source, {"encoder": source}, {"decoder": source, "encoder.conv_in": source}):
        target = make_tokenizer(1)
        target.encoder.conv_in.frozen_from_nothing = target.quantizer.frozen_from_nothing = True
        capsys.readouterr()
        init_from(target, given)
        assert target.encoder.conv_in.frozen_from_nothing is False
        assert target.quantizer.frozen_from_nothing is (given is not source)
        total, said = len(target.state_dict()), capsys.readouterr().out
        if given is source:
            assert f"init_from={source}: all {total} tensors loaded, none fresh" in said
        else:
            loaded = sum(name.startswith(tuple(f"{part}." for part in given)) for name in target.state_dict())
            assert f"init_from: {loaded} tensors loaded ({', '.join(given)}), {total - loaded} fresh: " in said


def test_a_part_is_loaded_whole_or_not_at_all(make_tokenizer, tmp_path):
    source = make_tokenizer(0)
    source.quantizer.register_buffer("more", torch.zeros(3))
    source.save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match="more"):
        init_from(make_tokenizer(1), {"quantizer": str(tmp_path / "source")})
    with pytest.raises(UserError, match=r"^init_from\.quantizer=3: a folder or hub id"):
        init_from(make_tokenizer(1), {"quantizer": 3})
    with pytest.raises(UserError, match=r"^init_from\.encoder=.*nowhere"):
        init_from(make_tokenizer(1), {"encoder": str(tmp_path / "nowhere")})
