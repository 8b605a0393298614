"""The semantic loss of ImageFolder and XQ-GAN: the codes' mean of an image must tell it from the batch's others.

Li et al., arXiv 2410.01756, section 3.3: InfoNCE, both ways, between a frozen teacher's class token and the codes.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs.errors import MissingWeights, UserError
from ..tokenizers.types import TokenizerOutput
from .base import LossTerm
from .schedule import schedule_of

SETTING = "loss.semantic_infonce.term.weights"
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SemanticInfoNCE(LossTerm):
    """Reads the mean of one branch's codes, and the teacher's class token through the encoder's own `project`.

    teacher: name of a timm ViT. weights: "pretrained" or "random" (seeded; then only as wide as `project` wants).
    branch: which of the encoder's branches; -1, the last, as published.
    scale: of the logits, a number or a schedule over updates. unit_length: of both sides first, then scale should be
        large (XQ-GAN: from 1 to 100).
    leave_out: share of the batch, its first images, that takes no part, beside the samples that the quantizer excludes.
    The teacher and the tokenizer's projection are hidden from the module tree: neither is checkpointed here.
    """

    needs_reconstruction: ClassVar[bool] = False

    def __init__(
        self,
        *,
        teacher: str = "vit_base_patch14_dinov2.lvd142m",
        weights: str = "pretrained",
        branch: int = -1,
        scale: float | Mapping[str, Any] = 1.0,
        unit_length: bool = False,
        leave_out: float = 0.0,
    ) -> None:
        super().__init__()
        if weights not in ("pretrained", "random"):
            raise UserError(f"{SETTING}={weights}: give pretrained or random")
        if not 0 <= leave_out < 1:
            raise UserError(
                f"loss.semantic_infonce.term.leave_out={leave_out}: a share of the batch, from 0 to below 1"
            )
        self.teacher_name = teacher
        self.weights = weights
        self.branch = branch
        self.scales = schedule_of(scale, key="loss.semantic_infonce.term.scale")
        self.scale = self.scales(0)
        self.unit_length = unit_length
        self.leave_out = leave_out
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION)[:, None, None], persistent=False)
        self.__dict__.update(teacher=None, project=None, branches=1)

    @property
    def weights_are_random(self) -> bool:
        return self.weights == "random"

    def misfit(self, tokenizer: nn.Module) -> str | None:
        """Called once, before training: here the term meets the tokenizer whose projection it shares."""
        encoder = tokenizer.encoder
        if not isinstance(getattr(encoder, "project", None), nn.Linear) or not hasattr(encoder, "branches"):
            return f": tokenizer.encoder ({type(encoder).__name__}) has no branches with a shared projection"
        if not -encoder.branches <= self.branch < encoder.branches:
            return f".term.branch={self.branch}: the encoder has {encoder.branches} branches"
        teacher = self._load(tokenizer.image_size, encoder.patches.kernel_size[0], encoder.project.in_features)
        if teacher.num_features != encoder.project.in_features:
            return (
                f".term.teacher={self.teacher_name}: {teacher.num_features} features, tokenizer.encoder.width is "
                f"{encoder.project.in_features}; the published pair is of one width"
            )
        self.__dict__.update(teacher=teacher, project=encoder.project, branches=encoder.branches)
        return None

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        with torch.no_grad():
            class_token = self.teacher(((batch["image"] + 1) / 2 - self.mean) / self.deviation)
        codes = output.quantized.codes["main"].x_BND.unflatten(2, (self.branches, -1))[:, :, self.branch].mean(dim=1)
        meaning = self.project(class_token)
        keep_B = torch.arange(len(codes), device=codes.device) >= int(len(codes) * self.leave_out)
        if output.quantized.sample_mask is not None:
            keep_B = keep_B & output.quantized.sample_mask
        with torch.autocast(codes.device.type, enabled=False):
            codes, meaning = codes.float(), meaning.float()
            if self.unit_length:
                codes, meaning = F.normalize(codes, dim=1), F.normalize(meaning, dim=1)
            return symmetric_infonce(meaning, codes, keep_B, scale=self.scale)

    def set_update(self, update: int) -> None:
        self.scale = self.scales(update)

    def _load(self, image_size: tuple[int, int], patch_size: int, width: int) -> nn.Module:
        import timm

        sizes = {"num_classes": 0, "img_size": image_size, "patch_size": patch_size}
        if self.weights == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                teacher = timm.create_model("vit_small_patch14_dinov2", embed_dim=width, depth=1, num_heads=1, **sizes)
        else:
            try:
                teacher = timm.create_model(self.teacher_name, pretrained=True, **sizes)
            except Exception as error:  # the hub client raises a dozen unrelated types
                raise MissingWeights(
                    f"{SETTING}=pretrained: timm could not fetch {self.teacher_name} ({type(error).__name__}); "
                    f"set loss.semantic_infonce=null to train without, or {SETTING}=random to try things"
                ) from error
        return teacher.requires_grad_(False).eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SemanticInfoNCE":
        if self.teacher is not None:
            self.teacher._apply(fn)
        return super()._apply(fn, recurse)


def symmetric_infonce(a_BD: Tensor, b_BD: Tensor, keep_B: Tensor, *, scale: float) -> Tensor:
    """Mean cross-entropy of telling each sample's partner from all others of all processes, from either side."""
    a, b, keep = (_of_all_processes(x) for x in (a_BD, b_BD, keep_B))
    if int(keep.sum()) == 0:
        return (a_BD.sum() + b_BD.sum()) * 0.0
    a, b = a[keep], b[keep]
    logits, partner = scale * a @ b.T, torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2


def _of_all_processes(x_B: Tensor) -> Tensor:
    """Joined batch; gradients reach a process's own part only, so that their average over processes is the whole's."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x_B
    if not x_B.is_floating_point():
        parts = [torch.empty_like(x_B, dtype=torch.uint8) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x_B.to(torch.uint8))
        return torch.cat(parts).bool()
    parts = [torch.empty_like(x_B) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x_B.detach().contiguous())
    # Every process computes the whole loss and so its own part's whole gradient, which averaging divides by the number.
    own = x_B.detach() + (x_B - x_B.detach()) * dist.get_world_size()
    parts[dist.get_rank()] = own
    return torch.cat(parts)
