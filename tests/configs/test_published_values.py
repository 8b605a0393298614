"""Recipes as they compose, against values read in the published code (file beside each), not in our YAML."""

from functools import cache
from typing import Any

import pytest

from imtok.configs.compose import compose_config

# experiment: {setting: value}; a comment names the file of the reference's repository.
PUBLISHED: dict[str, dict[str, Any]] = {
    "vqgan_f16_1024": {  # taming-transformers: taming/models/vqgan.py, taming/data/base.py, configs/imagenet_vqgan.yaml
        "trainer.clip": None,
        "trainer.ema": None,
        "trainer.precision": "fp32",
        "data.flip": False,
        "data.train_crop.mode": "bilinear",  # albumentations.SmallestMaxSize: cv2.INTER_LINEAR
        "data.train_crop.antialias": False,
        "optimizer.betas": [0.5, 0.9],
        "adversary.start": 250001,
        "adversary.weight": 0.8,
        "loss.codebook.weight": 0.25,  # quantize.py, legacy: beta on the codebook's side
        "loss.commit.weight": 1.0,
        "recipe.complete": False,
    },
    "llamagen_vq16": {  # LlamaGen: vq_train.py (defaults, drop_last), vq_loss.py
        "trainer.ema": None,
        "trainer.clip": 1.0,
        "trainer.max_updates": 40 * (1281167 // 128),
        "adversary.discriminator_weight": 0.5,
        "adversary.start": 20000 - 1,  # global_step=train_steps + 1
        "adversary.adaptive": None,
        "optimizer.lr": 1e-4,
        "optimizer.weight_decay": 0.0,
    },
    "xqgan_msbr10p2_4096": {  # ImageFolder: configs/MSBR10P2-4096.yaml, xqgan_train.py with timm's defaults
        "optimizer.lr": pytest.approx(3e-5 * 1024 / 128),
        "optimizer.weight_decay": 5e-5,
        "optimizer.decay": "all",
        "optimizer.schedule.warmup": 1251,
        "optimizer.schedule.warmup_start": pytest.approx(1e-5 / 2.4e-4, rel=1e-4),
        "optimizer.schedule.warmup_within": True,
        "optimizer.schedule.every": 1251,
        "optimizer.schedule.min_ratio": pytest.approx(5e-5 / 2.4e-4, rel=1e-4),
        "adversary.optimizer.weight_decay": 5e-4,
        "adversary.optimizer.decay": "all",
        "adversary.optimizer.schedule.warmup": 4 * 1251,
        "adversary.optimizer.schedule.warmup_start": 1e-5 / 8e-4,
        "adversary.optimizer.schedule.every": 1251,
        "adversary.start": 64 * 1251,
        "trainer.clip": None,
    },
    "titok_b64/stage1": {  # 1d-tokenizer: configs/training/TiTok/stage1/titok_b64.yaml, utils/train_utils.py
        "trainer.precision": "fp16",
        "loss.proxy_codes.term.precision": "fp32",  # encoded outside accelerate's autocast
        "optimizer.betas": [0.9, 0.99],
        "optimizer.schedule.warmup": 10000,
    },
    "titok_b64/stage2": {  # configs/training/TiTok/stage2/titok_b64.yaml; losses.py: @autocast(enabled=False)
        "trainer.precision": "fp16",
        "loss.convnext.term.precision": "fp32",
        "adversary.precision": "fp32",
        "adversary.weight": 0.01,
        "adversary.start": 20000,
        # train_utils.py: 500,000 N - 20,000 steps of a schedule that N = 8 processes step N times an update
        "adversary.optimizer.schedule.length": (500_000 * 8 - 20_000) // 8,
        "adversary.optimizer.lr": 1e-4,
    },
    "one_d_piece_b256/stage2": {  # One-D-Piece: configs/training/stage2/one-d-piece_b256.yaml
        "trainer.precision": "bf16",
        "adversary.precision": "fp32",
        "adversary.optimizer.schedule.length": 497_500,
    },
    "ta_titok_bl64_vq": {  # 1d-tokenizer: configs/training/TA-TiTok/tatitok_bl64_vq.yaml, 32 GPUs x 32
        "trainer.precision": "fp16",
        "loss.lpips.term.precision": "fp32",
        "loss.convnext.term.precision": "fp32",
        "adversary.precision": "fp32",
        "adversary.optimizer.schedule.length": (650_000 * 32 - 200_000) // 32,
    },
    "open_magvit2_pretrain_16384": {  # SEED-Voken: src/Open_MAGVIT2/data/pretrain.py
        "data.train_crop._target_": "imtok.data.transforms.CentreCrop",
        "data.train_crop.mode": "bilinear",
    },
    "dualvitok_256": {  # ILLUME_plus: vision_tokenizer/dataset/build.py; train_dualvitok.py drops the last batch
        "data.train_crop._target_": "imtok.data.transforms.CentreCrop",
        "data.train_crop.mode": "bilinear",
        "data.flip": True,
        "adversary.start": 20000 - 1,
        "trainer.max_updates": 21 * (1281167 // 256),
    },
    "dualtoken_384": {  # DualToken: run.sh, train.py: weight 1 while epoch == gan_start_epoch, 10 M images an epoch
        "adversary.discriminator_weight": {"start": 1.0, "end": 0.75, "updates": 0, "after": 10_000_000 // 256},
        "trainer.clip": None,
    },
    "flextok_d12_d12": {"tokenizer.space.sample": "training"},  # ml-flextok: vae_wrapper.py, sample_posterior=True
    "gigatok_bl": {  # GigaTok: configs/vq/VQ_BL256.yaml; vq_train.py: train_steps + 1 < aux_loss_end
        "loss.direct_decode.weight.after": 15000 - 1,
        "loss.feature_match.weight.after": 15000 - 1,
        "adversary.start": 20000 - 1,
        "trainer.clip": 10.0,
        "trainer.ema": None,
    },
    "tokenflow_b": {  # TokenFlow: scripts/train_vq.sh, vq_train.py (defaults)
        "trainer.precision": "fp16",
        "trainer.max_updates": 100 * (1281167 // 32),
        "adversary.start": 20000 - 1,
        "recipe.published_rfid": None,
    },
    "tokenflow_b_enhanced": {  # TokenFlow: scripts/train_vq_finetune_enhanced_decoder.sh, vq_model.py
        "tokenizer.decoder.decoder.channels": 256,
        "tokenizer.decoder.decoder.blocks_per_level": 4,
        "freeze": ["encoder", "quantizer", "heads", "decoder.decoder.project"],
        "adversary.start": 0,
        "recipe.published_rfid": 1.37,
    },
    "tokenbridge": {  # latent-diffusion: contperceptual.py sums over 3 x 256 x 256 values, and its KL over 256 tokens
        "loss.kl.weight": pytest.approx(1e-6 * 256 / (3 * 256 * 256), rel=1e-3),
        "adversary.adaptive.maximum": pytest.approx(1e4 / (3 * 256 * 256), rel=1e-3),
        "trainer.clip": None,
        "trainer.ema": None,
        "trainer.precision": "fp32",
        "optimizer.betas": [0.5, 0.9],
        "adversary.start": 50001,
    },
}

composed = cache(lambda name: compose_config("train", [f"experiment={name}"]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_values_are_the_published_ones(name: str) -> None:
    found = {key: at(composed(name), key) for key in PUBLISHED[name]}
    assert found == PUBLISHED[name]


def at(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node[name]
    return node


def test_latent_diffusions_rate_follows_the_batch() -> None:
    config = composed("tokenbridge")
    assert config["optimizer"]["lr"] == pytest.approx(
        4.5e-6 * config["data"]["batch_size"]
    )  # main.py, base_lr x images
