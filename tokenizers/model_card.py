"""The README.md of an exported tokenizer."""

from typing import Any

from .tokenizer import Tokenizer

TEMPLATE = """---
library_name: imtok
tags: [image-tokenizer]
---
# {title}

A discrete image tokenizer trained with imtok {version}.

| fact | value |
|---|---|
{facts}

```python
import imtok
tokenizer = imtok.from_pretrained("path/to/this/folder")
indices = tokenizer.tokenize(images)      # images [B, 3, {height}, {width}] in [-1, 1] -> int64 [B, M, K]
images = tokenizer.detokenize(indices)    # back, in [-1, 1]
```

The weights are `model.safetensors`, the architecture `config.json`; loading runs no code from this folder.
"""


def model_card(tokenizer: Tokenizer, config: dict[str, Any]) -> str:
    training = config["training"]
    parameters = sum(p.numel() for p in tokenizer.parameters())
    facts: dict[str, Any] = {
        "image size": "x".join(str(side) for side in config["image"]["size"]),
        "tokens an image": config["codebook"]["tokens_per_image"],
        "codebook": config["codebook"]["size"],
        "bits per image": f"{config['codebook']['bits_per_image']:g}",
        "parameters": f"{parameters / 1e6:.2f} M",
        "encoder, quantizer, decoder": ", ".join(
            type(part).__name__ for part in (tokenizer.encoder, tokenizer.quantizer, tokenizer.decoder)
        ),
        **training,
    }
    height, width = config["image"]["size"]
    return TEMPLATE.format(
        title=training.get("experiment", "Image tokenizer"),
        version=config["imtok_version"],
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        height=height,
        width=width,
    )
