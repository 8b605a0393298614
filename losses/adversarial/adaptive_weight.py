"""The adaptive GAN weight of VQGAN (arXiv:2012.09841, eq. 7)."""

import math

import torch
from torch import Tensor, nn

from ...common.distributed import mean_over_ranks
from ...common.errors import UserError


class AdaptiveWeight:
    """|d reconstruction loss / d last layer| / (|d GAN loss / d last layer| + eps), clamped.

    Both losses reach the last layer through the reconstruction only. So each is differentiated down to the
    reconstruction once, and the little that lies between it and the last layer is run for both; `gan_loss` is handed
    back with its gradient already known, which saves the second backward pass through the discriminator.
    The reference takes each process's own ratio; ours is their mean (one scalar): all ranks use and log the same.
    per_device: as the reference does, also for each micro-batch, so that eight of them train as eight GPUs would.
    """

    def __init__(
        self, *, eps: float = 1e-4, minimum: float = 0.0, maximum: float = 1e4, per_device: bool = False
    ) -> None:
        if not 0 <= minimum <= maximum:
            raise ValueError(f"minimum={minimum}: give 0 or more, and not above maximum={maximum}")
        self.eps = eps
        self.minimum = minimum
        self.maximum = maximum
        self.norms: list[Tensor] = []  # both of them, of the last update
        self.per_device = per_device
        # A compiled decoder is run backwards several times with its graph kept, and AOTAutograd refuses that
        # for graphs that hand their buffers on. Read when the graph is first compiled, which comes later.
        import torch._functorch.config

        torch._functorch.config.donated_buffer = False

    def __call__(
        self, *, reconstruction_loss: Tensor, gan_loss: Tensor, reconstruction: Tensor, last_layer: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The weight, without gradient, and the GAN loss to use from now on."""
        if not last_layer.requires_grad:
            raise UserError("adversary.adaptive: the decoder's last layer is frozen; set adversary.adaptive=null")
        scale = _scale_for(reconstruction)
        toward_images = _gradient(reconstruction_loss, reconstruction, scale, retain_graph=True)
        toward_discriminator = _gradient(gan_loss, reconstruction, scale, retain_graph=False)
        if toward_discriminator is None:  # nothing of the tokenizer trains
            return torch.zeros((), device=reconstruction.device), gan_loss.detach()
        norms = [_norm_at(last_layer, reconstruction, g) for g in (toward_images, toward_discriminator)]
        self.norms = norms
        ratio = (norms[0] / (norms[1] + self.eps)).clamp(self.minimum, self.maximum)
        ratio = ratio if self.per_device else mean_over_ranks(ratio)
        return ratio, _WithKnownGradient.apply(reconstruction, gan_loss.detach(), toward_discriminator)


def keep_last_layer_out_of_compile(model: nn.Module, last_layer: Tensor) -> None:
    """Call before torch.compile(model): a last layer of its own graph has its gradient without running all the others'.

    Without it the weight is the same, for two more backward passes through everything that was compiled together.
    """
    for module in model.modules():
        if any(parameter is last_layer for parameter in module._parameters.values()):
            eager = {"forward": torch.compiler.disable(type(module).forward)}
            module.__class__ = type(type(module).__name__, (type(module),), eager)  # a class, so that copies stay apart
            return
    raise AssertionError("last_layer is no parameter of this model")


def _scale_for(images: Tensor) -> float:
    """A power of two near a thousand an image, about its logits, of which a loss is the mean: no GradScaler is in this
    backward pass, and fp16 inside a discriminator or LPIPS would lose gradients of 1 / (images x logits)."""
    return 2.0 ** (10 + math.ceil(math.log2(len(images))))


def _gradient(loss: Tensor, reconstruction: Tensor, scale: float, *, retain_graph: bool) -> Tensor | None:
    if not loss.requires_grad:
        return None
    (found,) = torch.autograd.grad(loss * scale, reconstruction, retain_graph=retain_graph, allow_unused=True)
    return None if found is None else found / scale


def _norm_at(last_layer: Tensor, reconstruction: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros((), device=reconstruction.device)
    # At unit length: a mean over all pixels of a batch has gradients of 1e-7, which fp16 below this point would lose.
    length = gradient.float().norm().clamp(min=1e-30)
    direction = (gradient / length).to(gradient.dtype)
    (at_layer,) = torch.autograd.grad(reconstruction, last_layer, direction, retain_graph=True)
    return at_layer.float().norm() * length


class _WithKnownGradient(torch.autograd.Function):
    """A scalar whose gradient at `reconstruction` was computed before."""

    @staticmethod
    def forward(ctx, reconstruction: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (grad_output * gradient).to(gradient.dtype), None, None
