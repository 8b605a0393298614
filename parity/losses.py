"""Golden vectors of losses and discriminators (shared/parity/functions): what imtok's own code makes of the inputs."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.adversarial import gan_losses
from ..losses.adversarial.adaptive_weight import AdaptiveWeight
from ..losses.adversarial.lecam import LeCam
from ..losses.adversarial.patchgan import PatchGAN, from_taming_keys
from .check import Check, Tensors


def check_gan_losses(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    real, fake = io["logits_real"], io["logits_fake"]
    return {
        "hinge_d": gan_losses.hinge_discriminator(real, fake),
        "hinge_g": gan_losses.hinge_generator(fake),
        "vanilla_d": gan_losses.vanilla_discriminator(real, fake),
        "llamagen_non_saturating_d": gan_losses.llamagen_swapped_discriminator(real, fake),
        "llamagen_non_saturating_g": gan_losses.llamagen_swapped_generator(fake),
        "seed_voken_non_saturate_d": gan_losses.non_saturating_discriminator(real, fake),
        "seed_voken_non_saturate_g": gan_losses.non_saturating_generator(fake),
    }


def check_adaptive_weight(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    """A convolution as the last layer, L1 as reconstruction loss, tanh as discriminator: see config["notes"]."""
    last_layer = io["conv_weight"].clone().requires_grad_()
    with torch.enable_grad():
        picture = F.conv2d(io["h"], last_layer, io["conv_bias"], padding=last_layer.shape[-1] // 2)
        nll = (picture - io["target"]).abs().mean()
        gan = -(picture.tanh() * io["dk"][None, :, None, None]).mean() * config.get("g_scale", 1.0)
        ratio, gan = AdaptiveWeight()(
            reconstruction_loss=nll, gan_loss=gan, reconstruction=picture, last_layer=last_layer
        )
    return {"nll": nll, "g_loss": gan, "weight": config["disc_weight"] * ratio}


def check_lecam(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    decay = config.get("decay", config.get("constructor", {}).get("decay", 0.999))
    ours: dict[str, Tensor] = {}
    if "titok_loss" in io:
        lecam = LeCam(decay=decay, form="batch_mean")
        lecam.ema_real.copy_(io["ema_real"].squeeze())
        lecam.ema_fake.copy_(io["ema_fake"].squeeze())
        ours["titok_loss"] = lecam(io["logits_real"], io["logits_fake"], update=0)
    if "seq_real" in io:
        lecam = LeCam(decay=decay, form="per_logit")
        penalties, means = [], []
        for update, (real, fake) in enumerate(zip(io["seq_real"], io["seq_fake"], strict=True)):
            penalties.append(lecam(real, fake, update=update))
            means.append(torch.stack([lecam.ema_real, lecam.ema_fake]))
        ours |= {"seed_voken_reg": torch.stack(penalties), "seed_voken_ema": torch.stack(means)}
    return ours


def check_patchgan(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    """Released weights through `from_taming_keys`; eval first, then one training forward (batch statistics)."""
    facts = config["constructor"]
    discriminator = PatchGAN(
        in_channels=facts.get("input_nc", 3),
        ndf=facts.get("ndf", 64),
        n_layers=facts.get("n_layers", 3),
        norm="act" if facts.get("use_actnorm", False) else "batch",
    )
    discriminator.load_state_dict(from_taming_keys(weights))  # strict: every key of both sides
    with torch.no_grad():
        return {"logits_eval": discriminator.eval()(io["image"]), "logits_train": discriminator.train()(io["image"])}


FUNCTIONS: dict[str, Check] = {
    "gan_losses": check_gan_losses,
    "adaptive_gan_weight": check_adaptive_weight,
    "lecam": check_lecam,
    "patchgan_batchnorm": check_patchgan,
    "patchgan_actnorm": check_patchgan,
}
