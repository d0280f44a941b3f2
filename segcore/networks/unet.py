"""The UNet of Ronneberger et al. (2015) from scratch: the baseline that has no encoder."""

import torch
from torch import Tensor, nn


class ScratchUNet(nn.Module):
    """Contracting path, expanding path, and the skips between them (arXiv:1505.04597, figure 1).

    Three things differ from the paper: convolutions are padded, so that the output is as large as
    the input; each has batch normalisation, which trains from random weights; and the first level
    has ``base_channels`` = 32 rather than 64, a quarter of the work. Level ``i`` has
    ``base_channels * 2**i`` channels at 1/``2**i`` of the size; ``depth`` counts the halvings.
    """

    def __init__(
        self, num_classes: int, base_channels: int = 32, depth: int = 4, in_channels: int = 3
    ) -> None:
        super().__init__()
        widths = [base_channels * 2**level for level in range(depth + 1)]
        self.size_multiple = 2**depth
        self.stem = _double_conv(in_channels, widths[0])
        self.contracting = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _double_conv(width, 2 * width)) for width in widths[:-1]
        )
        self.expanding = nn.ModuleList(_UpBlock(width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(widths[0], num_classes, kernel_size=1)
        self.apply(_initialise)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Float image NCHW, H and W multiples of ``size_multiple`` → logits NKHW."""
        levels = [self.stem(image_NCHW)]
        for block in self.contracting:
            levels.append(block(levels[-1]))
        x_NCHW = levels.pop()
        for block in self.expanding:
            x_NCHW = block(x_NCHW, skip_NCHW=levels.pop())
        logits_NKHW: Tensor = self.head(x_NCHW)
        return logits_NKHW


class _UpBlock(nn.Module):
    """Doubles the size, joins the skip of that size, and convolves both into ``width`` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2)
        self.conv = _double_conv(2 * width, width)

    def forward(self, x_NCHW: Tensor, skip_NCHW: Tensor) -> Tensor:
        joined: Tensor = self.conv(torch.cat([skip_NCHW, self.up(x_NCHW)], dim=1))
        return joined


def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            # No bias: the normalisation that follows would subtract it again.
            nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    """Section 3 of the paper: Gaussian weights of standard deviation √(2/fan-in)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
