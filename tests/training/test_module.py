"""Six updates are six updates; accumulation is a big batch; bad numbers are skipped; frozen is frozen."""

import pytest
import torch

from imtok.common.errors import UserError
from imtok.training.callbacks.validation import Validation


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def test_six_updates_of_each_network_and_one_forward_an_update(make_run):
    run = make_run(adversary={"start": 0}, max_updates=6)
    calls = {"tokenizer": 0, "generator": 0, "adversary": 0}
    run.tokenizer.register_forward_hook(lambda *_: calls.__setitem__("tokenizer", calls["tokenizer"] + 1))
    configure = run.training.configure_optimizers

    def counted() -> list:
        optimizers = configure()
        for name, stepper in run.training.steppers.items():
            stepper.optimizer.register_step_post_hook(lambda *_, n=name: calls.__setitem__(n, calls[n] + 1))
        return optimizers

    run.training.configure_optimizers = counted
    run.fit()
    assert calls == {"tokenizer": 6, "generator": 6, "adversary": 6}
    assert run.training.update == 6 and run.training.samples == 12
    assert [row.split(",")[0] for row in run.rows[1:]] == ["1", "2", "3", "4", "5", "6"]


def test_the_discriminator_does_not_run_before_its_turn(make_run):
    run = make_run(adversary={"start": 3, "discriminator_warmup": 1}, max_updates=5)
    seen: list[int] = []
    run.training.adversary.discriminator.register_forward_hook(lambda *_: seen.append(run.training.update))
    run.fit()
    # Update 2: the discriminator alone (real and fake); from 3 on the generator sees it as well.
    assert [seen.count(n) for n in range(5)] == [0, 0, 2, 3, 3]


def test_accumulation_equals_the_big_batch(make_run, toy_data):
    sgd = {"name": "sgd", "lr": 0.1}
    how = {"max_updates": 2, "clip": 0.05, "optimizer": sgd, "quantizer": {"revive_below": 0.0}}
    big = make_run("big", data=toy_data(batch_size=4), **how).fit()
    small = make_run("small", data=toy_data(batch_size=2), accumulate=2, **how).fit()
    assert small.training.update == 2 and small.training.samples == big.training.samples == 8
    for name, value in big.tokenizer.state_dict().items():
        torch.testing.assert_close(small.tokenizer.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)
    loss = [run.rows[2].split(",")[1] for run in (big, small)]
    assert float(loss[0]) == pytest.approx(float(loss[1]), rel=1e-4)


MOVING = {
    "running means": {"_target_": "imtok.tokenizers.quantizers.ema_vq.EmaVQ", "decay": 0.5},
    "revival": {"_target_": "imtok.tokenizers.quantizers.ema_vq.EmaVQ", "revive_below": 0.5, "usage_decay": 0.5},
    "clustering": {"revive_below": 0.0, "reset": "clustering", "usage_decay": 0.99},
}


@pytest.mark.parametrize("moving", MOVING)
def test_what_moves_in_the_forward_moves_once_an_update(make_run, toy_data, moving):
    """Codebooks and LeCam's means over the images of the update, and no sooner; then there is nothing left over."""
    lecam = {"_target_": "imtok.losses.adversarial.lecam.LeCam", "decay": 0.5, "images": 2}
    patchgan = "imtok.losses.adversarial.patchgan.PatchGAN"
    gan = {"discriminator": {"_target_": patchgan, "ndf": 32, "n_layers": 1, "norm": "group"}, "lecam": lecam}
    losses = ("l1", "commit") if "ema_vq" in MOVING[moving].get("_target_", "") else ("l1", "codebook", "commit")
    how = {"max_updates": 3, "optimizer": {"name": "sgd", "lr": 0.1}, "quantizer": MOVING[moving], "losses": losses}
    big = make_run("big", data=toy_data(batch_size=4), adversary=gan, **how).fit()
    small = make_run("small", data=toy_data(batch_size=2), adversary=gan, accumulate=2, **how).fit()
    for part in ("tokenizer", "adversary"):
        found = getattr(small.training, part).state_dict()
        for name, value in getattr(big.training, part).state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert float(found["lecam.ema_real"]) != 0
    assert [row.split(",")[0] for row in small.rows[1:]] == ["1", "2", "3"]


def test_clipping_bounds_the_step(make_run):
    run = make_run(max_updates=1, clip=1e-3, optimizer={"name": "sgd", "lr": 1.0}, quantizer={"revive_below": 0.0})
    before = state_of(run.tokenizer)
    run.fit()
    moved = torch.cat([(v - before[k]).flatten() for k, v in run.tokenizer.state_dict().items()]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-2)


def test_a_bad_batch_changes_nothing_but_the_counters(make_run, toy_data):
    good = make_run("good", max_updates=1, adversary={"start": 0}).fit()
    run = make_run("bad", max_updates=2, data=toy_data(bad=frozenset({2})), adversary={"start": 0}).fit()
    assert run.training.update == 2 and run.training.guard.skipped == 1
    for kind in ("tokenizer", "adversary"):
        for name, value in getattr(good.training, kind).state_dict().items():
            assert torch.equal(getattr(run.training, kind).state_dict()[name], value), name


def test_many_bad_batches_stop_the_run_with_a_diagnosis(make_run, toy_data):
    run = make_run(max_updates=9, max_nonfinite=3, data=toy_data(bad=frozenset(range(4, 99))))
    with pytest.raises(UserError, match=r"update 5: 3 updates in a row.*the loss l1.*lr=0\.001") as caught:
        run.fit()
    saved = torch.load(run.folder / "nonfinite_batch_rank0.pt")
    assert saved["key"] == ["8", "9"] and "ckpt_path=last" in str(caught.value)


def test_frozen_parts_stay_and_have_no_optimizer_state(make_run):
    run = make_run(max_updates=2, freeze=("encoder", "quantizer"), quantizer={"revive_below": 0.0})
    before = state_of(run.tokenizer)
    assert set(run.training.losses.terms) == {"l1"}  # what the quantizer would learn by is left out
    run.fit()
    after = run.tokenizer.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before if not k.startswith("decoder"))
    assert any(not torch.equal(after[k], before[k]) for k in before if k.startswith("decoder"))
    trained = sum(len(g["params"]) for g in run.training.steppers["generator"].optimizer.param_groups)
    assert trained == len(list(run.tokenizer.decoder.parameters()))
    assert not run.tokenizer.encoder.training and run.tokenizer.decoder.training


def test_a_frozen_module_within_a_part_stays_in_eval_mode_without_optimizer_state(make_run):
    paths = ("encoder.conv_in", "decoder.conv_out.bias")
    run = make_run(max_updates=2, freeze=paths)
    before = state_of(run.tokenizer)
    run.fit()
    after = run.tokenizer.state_dict()
    still = {k for k in before if torch.equal(after[k], before[k])}
    assert {k for k in before if k.startswith(paths)} <= still
    assert any(k.startswith("encoder") and k not in still for k in before)
    trained = {id(p) for g in run.training.steppers["generator"].optimizer.param_groups for p in g["params"]}
    left_out = {name for name, p in run.tokenizer.named_parameters() if id(p) not in trained}
    assert left_out == {"encoder.conv_in.weight", "encoder.conv_in.bias", "decoder.conv_out.bias"}
    run.training.eval()
    run.training.train()
    assert not run.tokenizer.encoder.conv_in.training
    assert run.tokenizer.encoder.training and run.tokenizer.decoder.conv_out.training


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_both_networks(make_run, precision):
    run = make_run(max_updates=3, precision=precision, adversary={"start": 0}, channels_last=True)
    before = state_of(run.training)
    run.fit()
    after = run.training.state_dict()
    for kind in ("tokenizer.encoder", "tokenizer.decoder", "adversary"):
        assert any(not torch.equal(after[k], before[k]) for k in before if k.startswith(kind)), kind
    assert all(p.dtype == torch.float32 for p in run.training.parameters())
    assert (run.training.steppers["generator"].scaler is not None) == (precision == "fp16")


VQ = {"revive_below": 0.9, "usage_decay": 0.0}  # quantizers that write into their codebook during the forward
EMA_VQ = {"_target_": "imtok.tokenizers.quantizers.ema_vq.EmaVQ", "kmeans_init": True}


@pytest.mark.parametrize("quantizer", [VQ, EMA_VQ], ids=["vq", "ema_vq"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_batch_leaves_the_tokenizer_as_it_was(make_run, toy_data, quantizer, value):
    class BadData(toy_data):
        def _sample(self, number):
            sample = super()._sample(number)
            return sample | {"image": torch.full_like(sample["image"], value)} if number in self.bad else sample

    how = {
        "quantizer": quantizer,
        "max_updates": 1,
        "losses": ("l1", "commit"),
        "optimizer": {"name": "sgd", "lr": 1e-9},
    }
    good = make_run("good", **how)
    before = state_of(good.tokenizer)
    good.fit()
    after = {k: v for k, v in good.tokenizer.state_dict().items() if k.startswith("quantizer")}
    assert max((v.float() - before[k].float()).abs().max() for k, v in after.items()) > 0.1, "a good batch does write"
    bad = make_run("bad", data=BadData(bad=frozenset({0, 1})), **how)
    before = state_of(bad.tokenizer)
    bad.fit()
    assert bad.training.guard.skipped == 1
    for name, tensor in bad.tokenizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_parameter_without_a_gradient_in_an_update_stands_still(make_run):
    """Adam would move it by its running mean, were its gradient a zero."""
    run = make_run(max_updates=3, quantizer={"revive_below": 0.0})
    extra = run.tokenizer.decoder.extra = torch.nn.Parameter(torch.ones(()))
    seen = []

    def add(_, __, output):
        seen.append(float(extra))
        if run.training.update == 0:
            output.reconstruction = output.reconstruction + extra
        return output

    run.tokenizer.register_forward_hook(add)
    run.fit()
    assert seen[0] == 1.0 and seen[1] != 1.0 and seen[2] == seen[1] == float(extra)
    assert not any(value.requires_grad for value in run.training.sums.values()), "no graph is kept"


def test_images_have_the_memory_format_that_was_asked_for(make_run):
    for wanted in (True, False):
        run = make_run(str(wanted), max_updates=1, channels_last=wanted, callbacks=(Validation(),))
        seen = []
        run.tokenizer.register_forward_hook(
            lambda part, given, _, seen=seen: seen.append(
                (part.training, given[0].is_contiguous(memory_format=torch.channels_last))
            )
        )
        run.fit()
        assert set(seen) == {(True, wanted), (False, wanted)}


def test_images_that_could_not_be_read_are_kept_track_of(make_run, toy_data):
    class Broken(toy_data):
        def _collate(self, samples):
            return super()._collate(samples) | {"skipped": [f"bad {samples[0]['key']}"]}

    run = make_run(max_updates=2, data=Broken(), callbacks=(Validation(),)).fit()
    assert list(run.training.skipped.lines) == ["bad 0", "bad 2", "bad 10000", "bad 10002"]
    assert (run.folder / "skipped_images.txt").is_file()


def test_schedules_within_the_parts_hear_of_every_update(make_run, monkeypatch):
    run = make_run(max_updates=3, accumulate=2, adversary={"start": 1})
    heard = {"tokenizer": [], "adversary": []}
    for name, part in (("tokenizer", run.tokenizer), ("adversary", run.training.adversary)):
        real = part.set_update
        monkeypatch.setattr(part, "set_update", lambda n, name=name, real=real: (heard[name].append(n), real(n)))
    run.fit()
    assert heard == {"tokenizer": [0, 1, 2], "adversary": [0, 1, 2]}


def test_validation_alone_is_of_the_checkpoint_s_mean(make_run):
    how = {"ema": {"decay": 0.5}, "callbacks": (Validation(),), "optimizer": {"name": "sgd", "lr": 0.3}}
    first = make_run("a", max_updates=3, **how).fit()
    decodings = []
    again = make_run("b", max_updates=3, ckpt=first.folder / "checkpoints" / "last.ckpt", **how)
    again.tokenizer.decoder.register_forward_hook(
        lambda *_: decodings.append((torch.is_inference_mode_enabled(), again.tokenizer.training))
    )
    (values,) = again.trainer.validate(again.training, datamodule=again.data, verbose=False)
    assert values["val/psnr"] == pytest.approx(float(first.trainer.callback_metrics["val/psnr"]), rel=1e-5)
    assert decodings == [(False, False)] * 2, "two batches, decoded once"


def test_validation_decodes_where_training_makes_no_image(make_run):
    run = make_run(max_updates=1, callbacks=(Validation(),), losses=("codebook", "commit"))
    real = run.tokenizer.forward

    def without_image(*given):
        output = real(*given)
        output.reconstruction = None
        return output

    run.tokenizer.forward = without_image
    run.fit()
    run.tokenizer.eval()
    images = torch.cat([batch["image"] for batch in run.data.val_loader()])
    with torch.no_grad():
        made = real(images).reconstruction
    expected = 10 * (4 / (images - made.clamp(-1, 1)).square().flatten(1).mean(1)).log10().mean()
    assert float(run.trainer.callback_metrics["val/psnr"]) == pytest.approx(float(expected), rel=1e-4)
    assert "train/psnr" not in run.rows[0]
