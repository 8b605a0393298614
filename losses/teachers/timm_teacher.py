"""A teacher out of timm: ViTs (DINOv2, SigLIP, CLIP towers) and CNNs, at any layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import SemanticTeacher, TeacherFeatures, load_state


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
        interpolation: str = "bicubic",
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
        model_args: Mapping[str, Any] | None = None,
        made_by: str | None = None,
    ) -> None:
        super().__init__(weights=weights, interpolation=interpolation, made_by=made_by)
        import timm

        if not timm.is_model(model):
            near = timm.list_models(f"{model.split('_')[0]}*")[:3]
            raise ValueError(
                f"model={model}: timm knows no such model; e.g. {', '.join(near) or 'vit_base_patch16_224'}"
            )
        options = {"num_classes": 0} | dict(model_args or {})
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.network = timm.create_model(model, pretrained=weights == "pretrained", **options)
        except Exception as error:  # the hub client raises a dozen unrelated types
            if weights != "pretrained":
                raise
            raise ValueError(
                f"weights=pretrained: timm could not fetch {model} ({type(error).__name__}); give the path of a "
                "state dict, or random to try things"
            ) from error
        if weights not in ("pretrained", "random"):
            load_state(self.network, weights)
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
        size = image_size or options.get("img_size") or own["input_size"][-2:]
        self._finish(image_size=size, mean=mean or own["mean"], deviation=deviation or own["std"])

    def features(self, prepared: Tensor) -> TeacherFeatures:
        last, (grid_BCHW,) = self.network.forward_intermediates(
            prepared, indices=[self.layer], norm=self.final_norm, output_fmt="NCHW"
        )
        pooled = self.network.forward_head(last, pre_logits=True)
        return TeacherFeatures(grid_BCHW.flatten(2).transpose(1, 2), tuple(grid_BCHW.shape[-2:]), pooled)
