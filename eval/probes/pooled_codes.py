"""Mean codes per image over one pass of the encoder, gathered over processes: input of the probes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...common.distributed import gather_objects
from ...common.pixels import to_model_range
from ...common.types import Latents, TokenizerOutput
from ...losses.semantic.contrastive import ContrastiveTerm

QUANTIZED, BEFORE = "quantized", "before quantization"


@dataclass
class PooledCodes:
    """Rows in the order of keys. codes: {(QUANTIZED or BEFORE, stream): [N, D]}; `all` is every stream side by side."""

    keys: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    codes: dict[tuple[str, str], Any] = field(default_factory=dict)
    vectors: dict[str, Any] = field(default_factory=dict)  # of contrastive terms, by their names
    cosines: dict[str, Any] = field(default_factory=dict)  # to teachers, by the terms' names

    @property
    def tables(self) -> list[dict]:
        return [self.codes, self.vectors, self.cosines]

    @property
    def classes(self) -> Tensor:
        return torch.tensor(self.labels)


@torch.inference_mode()
def pooled_codes(
    tokenizer: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    device: torch.device,
    terms: Mapping[str, Any] | None = None,
) -> PooledCodes:
    """tokenizer: on `device`, in eval mode. terms: an Alignment's, contrastive or with `cosine_to_teacher`."""
    found, terms = PooledCodes(), dict(terms or {})
    in_decoder = any(path.startswith("decoder.") for term in terms.values() for path in term.taps.values())
    for batch in batches:
        if batch["image"] is None:
            continue
        image = batch["image"].to(device)
        image = to_model_range(image) if image.dtype == torch.uint8 else image
        output = encoded(tokenizer, image, batch if in_decoder else None)
        found.keys += list(batch["key"])
        found.labels += batch["label"].tolist() if "label" in batch else [-1] * len(image)
        found.captions += batch.get("caption") or [None] * len(image)
        for when, streams in ((QUANTIZED, output.quantized.codes), (BEFORE, output.latents)):
            for stream, vector in _by_stream(streams).items():
                found.codes.setdefault((when, stream), []).append(vector.float().cpu())
        for name, term in terms.items():
            if isinstance(term, ContrastiveTerm):
                found.vectors.setdefault(name, []).append(term.images(output).float().cpu())
            else:
                found.cosines.setdefault(name, []).append(term.cosine_to_teacher(image, output).float().cpu())
    for table in found.tables:
        for key, parts in table.items():
            table[key] = torch.cat(parts)
    return _of_all_processes(found)


def encoded(tokenizer: Any, image: Tensor, decoded: Mapping[str, Any] | None = None) -> TokenizerOutput:
    """A forward pass without the image, unless a tap is in the decoder: then `decoded` is the batch."""
    seen = image if tokenizer.space is None else tokenizer.space.encode(image)
    latents = tokenizer.encoder(seen)
    quantized = tokenizer.quantizer(latents)
    heads = {name: head(quantized.codes) for name, head in tokenizer.heads.items()}
    if decoded is not None:
        tokenizer.decode(quantized.codes, conditions=tokenizer.conditions_of(decoded))
    return TokenizerOutput(latents, quantized, None, {}, heads, tokenizer.taps.collect())


def _by_stream(streams: Latents) -> dict[str, Tensor]:
    vectors = {name: stream.mean() for name, stream in streams.items()}
    return vectors if len(vectors) == 1 else vectors | {"all": torch.cat(list(vectors.values()), dim=1)}


def _of_all_processes(own: PooledCodes) -> PooledCodes:
    """Every process ends with all rows, whichever process read them, in one order."""
    shards = gather_objects(own)
    if len(shards) == 1:
        return own
    keys = [key for shard in shards for key in shard.keys]
    order = sorted(range(len(keys)), key=keys.__getitem__)

    def joined(name: str) -> list:
        rows = [row for shard in shards for row in getattr(shard, name)]
        return [rows[i] for i in order]

    whole = PooledCodes(joined("keys"), joined("labels"), joined("captions"))
    for number, table in enumerate(whole.tables):
        for key in {key: None for shard in shards for key in shard.tables[number]}:
            parts = [shard.tables[number][key] for shard in shards if key in shard.tables[number]]
            table[key] = torch.cat(parts)[order]
    return whole
