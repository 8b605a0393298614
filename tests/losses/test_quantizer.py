import torch

from imtok.losses.quantizer import DecoderTerm, QuantizerTerm


def test_hands_on_the_named_value_with_its_gradient(output_of, images):
    commit = torch.tensor(0.7, requires_grad=True)
    flow = torch.tensor(0.2, requires_grad=True)
    output = output_of(None, losses={"commit": commit, "codebook": commit * 2}, decoder_losses={"flow": flow})
    assert QuantizerTerm(key="commit")({"image": images()}, output) is commit
    assert DecoderTerm(key="flow")({"image": images()}, output) is flow


def test_misfit_says_what_is_offered(FakeTokenizer):
    tokenizer = FakeTokenizer(loss_names=("commit", "entropy"))
    assert QuantizerTerm(key="entropy").misfit(tokenizer) is None
    reason = QuantizerTerm(key="codebook").misfit(tokenizer)
    assert ".term.key=codebook" in reason and "commit, entropy" in reason
    assert DecoderTerm(key="flow").misfit(tokenizer) is None
    assert "flow" in DecoderTerm(key="diffusion").misfit(tokenizer)
