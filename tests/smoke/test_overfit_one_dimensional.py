"""Eight pictures by heart: what the TiTok family learns when nothing but its own parts can be in the way."""

import pytest
import torch

from imtok.configs.compose import compose_config
from imtok.configs.instantiate import build
from imtok.training.optimizers import learning_rate
from imtok.training.psnr import mean_psnr

BUDGET = 3000


@pytest.mark.slow
def test_eight_pictures_above_30_db(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path))
    words = ["experiment=quickstart_1d", "data.count=8", "data.val_count=1", "data.batch_size=8", "data.num_workers=0"]
    config = compose_config("train", [*words, "tokenizer.quantizer.revive_below=0.1"])
    data = build(config["data"], key="data")
    torch.manual_seed(0)
    tokenizer = build(config["tokenizer"], key="tokenizer").train()
    images = data.prepare_batch(next(iter(data.train_loader(num_batches=1))), "cpu")["image"]
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0)
    factor = learning_rate({"shape": "cosine", "warmup": 50, "min_ratio": 0.02}, total=BUDGET, key="lr")
    for update in range(BUDGET):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * factor(update)
        output = tokenizer(images)
        losses = output.quantized.losses
        error = (output.reconstruction - images).square().mean()
        (error + 0.1 * (losses["codebook"] + 0.25 * losses["commit"])).backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert float(mean_psnr(images, tokenizer.eval().reconstruct(images))) > 30
