"""A teacher from timm: ViTs (DINOv2, SigLIP, CLIP towers) and CNNs, at any layer."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from ...common.timm_weights import timm_network
from .base import SemanticTeacher, TeacherFeatures


class TimmTeacher(SemanticTeacher):
    """model: timm's name. model_args: further arguments of its constructor (img_size, patch_size, embed_dim).

    layer: block whose output gives the tokens, -1 the last (Hugging Face's hidden_states[-2] is -2 here).
    final_norm: the network's last norm on those tokens. The pooled vector always comes from the end.
    image_size, mean, deviation: the model's own where null.
    """

    def __init__(
        self,
        *,
        model: str = "vit_base_patch14_dinov2.lvd142m",
        weights: str = "pretrained",
        layer: int = -1,
        final_norm: bool = True,
        image_size: int | Sequence[int] | None = None,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
        model_args: Mapping[str, Any] | None = None,
        made_by: str | None = None,
    ) -> None:
        super().__init__(interpolation=interpolation)
        options = {"num_classes": 0} | dict(model_args or {})
        network, self.origin = timm_network(model, weights, made_by=made_by, **options)
        self.network: Any = network
        described = self.network.feature_info
        described = described if isinstance(described, list) else described.info
        if not -len(described) <= layer < len(described):
            raise ValueError(
                f"layer={layer}: {model} has layers 0 to {len(described) - 1} (or -{len(described)} to -1)"
            )
        self.layer, self.final_norm = layer % len(described), final_norm
        self.tokens_dim = int(described[layer]["num_chs"])
        self.pooled_dim = int(getattr(self.network, "head_hidden_size", self.network.num_features))
        own = self.network.pretrained_cfg
        size = image_size or options.get("img_size") or own["input_size"]
        self._finish(image_size=size, mean=mean or own["mean"], deviation=deviation or own["std"])

    def features(self, prepared: Tensor) -> TeacherFeatures:
        last, (grid_BCHW,) = self.network.forward_intermediates(
            prepared, indices=[self.layer], norm=self.final_norm, output_fmt="NCHW"
        )
        pooled = self.network.forward_head(last, pre_logits=True)
        return TeacherFeatures(grid_BCHW.flatten(2).transpose(1, 2), tuple(grid_BCHW.shape[-2:]), pooled)
