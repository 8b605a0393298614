import torch
import torch.nn.functional as F

from imtok.losses.pixel import L1, L2


def test_equal_torch(images, output_of):
    a, b = images(3, seed=1), images(3, seed=2)
    torch.testing.assert_close(L1()({"image": b}, output_of(a)), F.l1_loss(a, b))
    torch.testing.assert_close(L2()({"image": b}, output_of(a)), F.mse_loss(a, b))


def test_fp32_for_a_bf16_reconstruction(images, output_of):
    a, b = images(seed=1), images(seed=2)
    value = L2()({"image": b}, output_of(a.bfloat16()))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, F.mse_loss(a.bfloat16().float(), b))


def test_sample_mask_counts_only_where_asked(images, output_of):
    a, b = images(3, seed=1), images(3, seed=2)
    keep = torch.tensor([True, False, True])
    output = output_of(a, sample_mask=keep)
    torch.testing.assert_close(L1()({"image": b}, output), F.l1_loss(a, b))
    torch.testing.assert_close(L1(skip_masked_samples=True)({"image": b}, output), F.l1_loss(a[keep], b[keep]))
    nobody = output_of(a, sample_mask=torch.zeros(3, dtype=torch.bool))
    assert L1(skip_masked_samples=True)({"image": b}, nobody) == 0
