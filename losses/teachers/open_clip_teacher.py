"""A teacher from open_clip: the image tower of a CLIP or SigLIP, projected or not."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .base import SemanticTeacher, TeacherFeatures
from .open_clip_import import create_model, import_open_clip


class OpenClipTeacher(SemanticTeacher):
    """model, tag: open_clip's names, as ViT-B-16-quickgelu and openai. The pooled vector is the tower's embedding.

    layer, final_norm: as in TimmTeacher. project_tokens: the tokens through the tower's visual projection as well
    (TokenFlow-B's target; towers of class VisionTransformer only).
    """

    def __init__(
        self,
        *,
        model: str = "ViT-B-16-quickgelu",
        tag: str | None = "openai",
        weights: str = "pretrained",
        layer: int = -1,
        final_norm: bool = True,
        project_tokens: bool = False,
        image_size: int | None = None,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
        made_by: str | None = None,
    ) -> None:
        super().__init__(interpolation=interpolation)
        open_clip = import_open_clip()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network, self.origin = create_model(
                model, part="visual", tag=tag, weights=weights, image_size=image_size, made_by=made_by
            )
        self.network: Any = network
        trunk = getattr(self.network, "trunk", None)
        depth = len(self.network.transformer.resblocks) if trunk is None else len(trunk.feature_info)
        if not -depth <= layer < depth:
            raise ValueError(f"layer={layer}: {model} has layers 0 to {depth - 1} (or -{depth} to -1)")
        self.layer, self.final_norm, self.project_tokens = layer % depth, final_norm, project_tokens
        self.pooled_dim = int(open_clip.get_model_config(model)["embed_dim"])
        if project_tokens and getattr(self.network, "proj", None) is None:
            raise ValueError(f"project_tokens=true: the tower of {model} has no projection that tokens could take")
        width = self.network.transformer.width if trunk is None else trunk.feature_info[layer]["num_chs"]
        self.tokens_dim = self.pooled_dim if project_tokens else int(width)
        size = self.network.image_size
        self._finish(
            image_size=image_size or size,
            mean=mean or self.network.preprocess_cfg["mean"],
            deviation=deviation or self.network.preprocess_cfg["std"],
        )

    def features(self, prepared: Tensor) -> TeacherFeatures:
        out = self.network.forward_intermediates(
            prepared, indices=[self.layer], normalize_intermediates=self.final_norm, output_fmt="NCHW"
        )
        grid_BCHW = out["image_intermediates"][0]
        tokens = grid_BCHW.flatten(2).transpose(1, 2)
        if self.project_tokens:
            tokens = tokens @ self.network.proj
        return TeacherFeatures(tokens, tuple(grid_BCHW.shape[-2:]), out["image_features"])
