"""The rule that frozen perceptual networks of stored training steps are drawn by."""

import torch
from torch import nn
from torchvision.models import convnext

from imtok.losses.convnext import ConvNeXt
from imtok.losses.direct_decode import DirectDecode
from imtok.losses.lpips import LPIPS
from imtok.parity.trunks import fill_perceptual_networks


def test_every_network_below_the_losses_is_drawn_in_torchvisions_order() -> None:
    losses = nn.ModuleDict({"direct": DirectDecode(terms={"lpips": LPIPS(net="alex", weights="random")})})
    losses["convnext"] = ConvNeXt(size="tiny", side=32, weights="random")
    heads = [head.clone() for head in losses["direct"].terms["lpips"].net.module.buffers()]
    fill_perceptual_networks(losses, seeds={"convnext": 5})

    lpips, generator = losses["direct"].terms["lpips"].net.module, torch.Generator().manual_seed(16)
    for convolution in (m for m in lpips.features if isinstance(m, nn.Conv2d)):
        fan_in = convolution.in_channels * convolution.kernel_size[0] ** 2
        weight = torch.randn(convolution.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
        torch.testing.assert_close(convolution.weight, weight)
        torch.testing.assert_close(convolution.bias, 0.05 * torch.randn(len(weight), generator=generator))
    assert all(torch.equal(a, b) for a, b in zip(heads, lpips.buffers(), strict=True))

    generator = torch.Generator().manual_seed(5)
    ours = losses["convnext"].net.module.network.state_dict()
    for name in convnext.convnext_tiny().state_dict():
        draw = torch.randn(ours[name].shape, generator=generator)
        if name.endswith("layer_scale"):
            draw = 0.5 + 0.2 * draw
        elif name.endswith("bias"):
            draw = 0.05 * draw
        elif draw.ndim == 1:
            draw = 1 + 0.1 * draw
        else:
            draw = draw / draw[0].numel() ** 0.5
        torch.testing.assert_close(ours[name].contiguous(), draw, msg=name)
