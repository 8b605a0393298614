"""The numbers of a row are those of the update: the mean over its micro-batches, with their sign."""

import pytest
import torch
import torch.nn.functional as F


@pytest.mark.parametrize("accumulate", [1, 2])
def test_logged_losses_are_those_of_the_images(make_run, toy_data, accumulate):
    quantizer = {"revive_below": 0.0}
    run = make_run(max_updates=1, accumulate=accumulate, quantizer=quantizer, optimizer={"name": "sgd", "lr": 1e-12})
    images = torch.stack([toy_data()._sample(n)["image"] for n in range(2 * accumulate)])
    with torch.no_grad():
        made = run.tokenizer.train()(images).reconstruction
    run.fit()
    row = dict(zip(*(line.split(",") for line in run.rows), strict=True))
    assert float(row["train/l1"]) == pytest.approx(float(F.l1_loss(made, images)), rel=1e-4)
    assert float(row["train/total"]) > float(row["train/l1"]) > 0
    decibels = -10 * ((made.clamp(-1, 1) - images) / 2).square().mean(dim=(1, 2, 3)).log10()
    assert float(row["train/psnr"]) == pytest.approx(float(decibels.mean()), rel=1e-3)
