"""From a config to the objects of a run: what is asked for arrives, what cannot work is one line."""

import os
import random
import warnings
from functools import cache

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.strategies import SingleDeviceStrategy
from omegaconf import OmegaConf

from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.training import factory
from imtok.training.callbacks.checkpoint import Checkpoint
from imtok.training.callbacks.validation import Validation
from imtok.training.compiling import compile_parts
from imtok.training.ddp import SEARCHING, TRUSTING, PerNetworkDDP
from imtok.training.factory import build_trainer, build_training, check_stage
from imtok.training.settings import TrainerSettings

TINY = ["debug=tiny", "loss=[l1,codebook,commit]"]


@cache
def composed(adversary: str) -> dict:
    return compose_config("train", [*TINY, f"adversary={adversary}"])


def build(folder, *words: str):
    """With `key=value` put into a config that is composed once, which takes most of the time."""
    adversary = "patchgan" if "adversary=patchgan" in words else "none"
    config = OmegaConf.create(composed(adversary))
    for key, _, value in (word.partition("=") for word in words if word != "adversary=patchgan"):
        OmegaConf.update(config, key, yaml.safe_load(value), merge=False)
    return build_training(OmegaConf.to_container(config), folder)


def weights(training) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in training.state_dict().items() if v.is_floating_point()}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_seed_gives_the_weights_and_each_process_its_own_noise(tmp_path, monkeypatch):
    first = weights(build(tmp_path, "seed=5", "adversary=patchgan")[0])
    drawn = torch.rand(3)
    torch.manual_seed(1), random.seed(1)
    assert same(weights(build(tmp_path, "seed=5", "adversary=patchgan")[0]), first)
    assert torch.equal(torch.rand(3), drawn)
    assert drawn.equal(torch.rand(3, generator=torch.Generator().manual_seed(5)))
    monkeypatch.setenv("RANK", "2")
    assert same(weights(build(tmp_path, "seed=5", "adversary=patchgan")[0]), first)
    assert torch.rand(3).equal(torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_threads_formats_frozen_parts_and_compiled_ones(tmp_path):
    words = ["adversary=patchgan", "trainer.threads=2", "trainer.channels_last=true", "freeze=[encoder]"]
    training, _ = build(tmp_path, *words, "weights=random", "trainer.compile=true")
    assert torch.get_num_threads() == 2
    for part in (training.tokenizer, training.adversary):
        kernels = [p for p in part.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
        assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert not any(p.requires_grad for p in training.tokenizer.encoder.parameters())
    assert training.tokenizer.frozen == ("encoder",)
    for part in (training.tokenizer.encoder, training.tokenizer.decoder, training.adversary.discriminator):
        assert part._compiled_call_impl is not None
    plain, _ = build(tmp_path, "trainer.channels_last=false")
    assert plain.tokenizer.encoder._compiled_call_impl is None and torch.get_num_threads() == 2
    kernels = [p for p in plain.tokenizer.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert all(p.is_contiguous() for p in kernels)


def test_blocks_that_are_computed_again(tmp_path):
    for words, recomputed in ([], False), (["trainer.checkpoint_activations=[encoder]"], True):
        tokenizer = build(tmp_path, *words)[0].tokenizer
        assert any(hasattr(m, "is_recomputed") for m in tokenizer.encoder.modules()) == recomputed
        assert not any(hasattr(m, "is_recomputed") for m in tokenizer.decoder.modules())


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_last_layer_stays_eager_for_the_adaptive_weight_alone(tmp_path, adaptive):
    import torch._functorch.config

    torch._functorch.config.donated_buffer = True
    training, _ = build(tmp_path, "adversary=patchgan", *([] if adaptive else ["adversary.adaptive=null"]))
    compile_parts(training.tokenizer, training.adversary)
    last = training.tokenizer.last_layer
    (owner,) = [m for m in training.tokenizer.modules() if any(p is last for p in m._parameters.values())]
    assert hasattr(type(owner).forward, "_torchdynamo_disable") == adaptive
    assert torch._functorch.config.donated_buffer is False


def test_init_from_is_for_a_new_run_and_not_for_one_that_goes_on(tmp_path):
    source = build(tmp_path, "seed=1")[0].tokenizer
    source.save_pretrained(tmp_path / "source")
    given = f"init_from={tmp_path / 'source'}"
    assert same(weights(build(tmp_path, given)[0].tokenizer), weights(source))
    assert not same(weights(build(tmp_path, given, "ckpt_path=x")[0].tokenizer), weights(source))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adversary=patchgan", "adversary.reconstruction_terms=[l11]"], r"^adversary\.reconstruction_terms: .*'l11'"),
        (["freeze=[encoder,quantizer]", "weights=pretrained"], "give init_from=DIR"),
        (["optimizer.schedule={'shape': 'step'}"], r"^optimizer\.schedule\.drops"),
    ],
)
def test_what_cannot_work_together_is_one_line(tmp_path, words, said):
    with pytest.raises(UserError, match=said):
        build(tmp_path, *words)


def test_a_term_that_reads_captions_has_images_that_carry_some(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(factory.ImageData, "take_captioned", lambda self, by: asked.append(by))
    build(tmp_path)
    assert asked == []
    monkeypatch.setattr("imtok.losses.pixel.L1.needs_captions", True, raising=False)
    build(tmp_path)
    assert asked == ["loss.l1"]


def test_a_run_that_goes_on_has_trained_parts():
    config = {"init_from": None, "ckpt_path": "x", "freeze": ["encoder"], "tokenizer": {}, "weights": "pretrained"}
    part = torch.nn.Sequential(torch.nn.Linear(1, 1))
    part[0].frozen_from_nothing = True
    check_stage(config, part)
    check_stage(config | {"ckpt_path": None, "init_from": "x"}, part)
    with pytest.raises(UserError, match=r"^tokenizer\.0\.pretrained=null"):
        check_stage(config | {"ckpt_path": None, "freeze": []}, part)


# -- Lightning's trainer ----------------------------------------------------------------------------------------------


def trainer_of(folder, *callbacks, **settings):
    given = {"max_updates": 4, "accelerator": "cpu", "precision": "fp32"} | settings
    return build_trainer(TrainerSettings(**given), loggers=[], callbacks=list(callbacks), folder=folder)


def test_what_lightning_is_given(tmp_path):
    trainer = trainer_of(tmp_path, Validation(), Checkpoint(), validate_every=3, accumulate=2, log_every=7)
    assert isinstance(trainer.strategy, SingleDeviceStrategy) and trainer.loggers == []
    assert (trainer.max_epochs, trainer.val_check_interval, trainer.log_every_n_steps) == (1, 6, 7)
    assert trainer.num_sanity_val_steps == 0 and trainer.check_val_every_n_epoch is None
    assert not trainer._accelerator_connector.use_distributed_sampler
    assert trainer.progress_bar_callback is None and trainer.limit_val_batches == 1.0
    assert not any(isinstance(c, ModelSummary) for c in trainer.callbacks)
    assert not trainer.validate_loop.inference_mode, "tensors made in validation may be trained with"
    assert trainer.default_root_dir == str(tmp_path)
    bare = trainer_of(tmp_path)
    assert bare.limit_val_batches == 0 and bare.checkpoint_callbacks == []
    repeated = trainer_of(tmp_path, lightning={"overfit_batches": 2})
    assert repeated.limit_train_batches == 1.0
    assert trainer_of(tmp_path, lightning={"limit_train_batches": 0.5}).limit_train_batches == 0.5


def test_cudnn_may_choose_its_kernels_unless_runs_have_to_repeat(tmp_path, monkeypatch):
    before = torch.backends.cudnn.benchmark
    try:
        trainer_of(tmp_path, accelerator="cpu")
        assert torch.backends.cudnn.benchmark is torch.cuda.is_available()
        monkeypatch.setattr(factory.torch.cuda, "is_available", lambda: True)
        trainer_of(tmp_path)
        assert torch.backends.cudnn.benchmark
        trainer_of(tmp_path, lightning={"deterministic": "warn"})
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("world", "here", "settings", "said"),
    [
        (1, 1, {"devices": 2}, "^trainer.devices=2: one process uses one device"),
        (4, 2, {"devices": 3}, "^trainer.devices=3, but torchrun started 2 processes here"),
        (4, 2, {"devices": 4}, "^trainer.devices=4, but torchrun started 2 processes here"),
        (1, 1, {"strategy": "fsdp"}, "^trainer.strategy=fsdp: auto, fsdp2, or"),
        (2, 2, {"strategy": "fsdp"}, "^trainer.strategy=fsdp: auto, fsdp2, or"),
    ],
)
def test_processes_that_do_not_fit(tmp_path, monkeypatch, world, here, settings, said):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    with pytest.raises(UserError, match=said):
        trainer_of(tmp_path, **settings)


def test_gpus_that_are_not_there_or_too_few(tmp_path, monkeypatch):
    monkeypatch.setattr(factory.torch.cuda, "is_available", lambda: False)
    for name in ("gpu", "cuda"):
        with pytest.raises(UserError, match=f"^trainer.accelerator={name}: torch sees no CUDA device"):
            trainer_of(tmp_path, accelerator=name)
    monkeypatch.setattr(factory.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(factory.torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cuda"):
        for world, said in (("3", f"^trainer.accelerator={name}: 3 processes for 2 GPU"), ("2", "^trainer.strategy")):
            monkeypatch.setenv("WORLD_SIZE", world)
            with pytest.raises(UserError, match=said):
                trainer_of(tmp_path, accelerator=name, strategy="fsdp")


def test_one_device_and_torchruns_processes(tmp_path, monkeypatch):
    assert isinstance(trainer_of(tmp_path, devices=1).strategy, SingleDeviceStrategy)
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    trainer = trainer_of(tmp_path, devices=2)
    assert (trainer.num_nodes, trainer.num_devices) == (2, 2) and isinstance(trainer.strategy, PerNetworkDDP)
    assert trainer.strategy.search is None, "looked for where there may be some"
    for name, search in (("ddp", None), (SEARCHING, True), (TRUSTING, False)):
        assert trainer_of(tmp_path, devices=2, strategy=name).strategy.search is search


def test_advice_of_lightning_is_not_repeated(tmp_path):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer_of(tmp_path)
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck.", stacklevel=1)
        warnings.warn("something of our own", stacklevel=1)
    assert [str(w.message) for w in seen] == ["something of our own"]


def test_defaults_are_those_of_the_yaml_file():
    listed = yaml.safe_load((factory.Path(factory.__file__).parents[1] / "configs/trainer/default.yaml").read_text())
    listed |= {"ema": None}  # the YAML file turns it on
    assert vars(TrainerSettings(max_updates=1000)) == listed
    assert os.environ.get("WORLD_SIZE") is None
