"""Convolutional networks: CNN with batch normalisation, ResNet, U-Net."""

from collections.abc import Sequence

import torch
from torch import nn

from ..arguments import Count, checked
from .perceptron import Chain

__all__ = ["CNN", "ResNet", "UNet"]


def _convolution(inputs, outputs, kernel=3, stride=1, activation=nn.ReLU):
    """Convolution, batch normalisation, activation (None: none)."""
    parts = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([activation()] if activation else []))


@checked
class CNN(Chain):
    """Blocks of convolution, batch normalisation, ReLU and pooling by 2, then a linear layer: images (n, channels, side, side) -> (n, classes)."""

    def __init__(self, channels: Count = 1, side: Count = 28, classes: Count = 10, widths: Sequence[int] = (16, 32)):
        if side // 2 ** len(widths) < 1:
            raise ValueError(f"CNN got images of side {side} for {len(widths)} blocks that halve it; use fewer widths.")
        blocks, c = [], channels
        for w in widths:
            blocks += [nn.Conv2d(c, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(2)]
            c = w
        super().__init__(*blocks, nn.Flatten(), nn.Linear(c * (side // 2 ** len(widths)) ** 2, classes))

    @classmethod
    def example(cls) -> tuple["CNN", torch.Tensor]:
        return cls(1, 8, 3, (3, 4)), torch.randn(4, 1, 8, 8)


class _Residual(nn.Module):
    """x -> ReLU(shortcut(x) + f(x)); f two convolutions ("basic") or 1-3-1 with a factor 4 ("bottleneck")."""

    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        self.f = (nn.Sequential(_convolution(inputs, width, 1), _convolution(width, width, 3, stride), _convolution(width, outputs, 1, activation=None)) if bottleneck
                  else nn.Sequential(_convolution(inputs, width, 3, stride), _convolution(width, width, activation=None)))
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs else _convolution(inputs, outputs, 1, stride, None)
        self.activation = nn.ReLU()

    def forward(self, x):
        return self.activation(self.shortcut(x) + self.f(x))


@checked
class ResNet(nn.Module):
    """Residual network: `ResNet(blocks=(3, 3, 3))` is ResNet-20 for small images (He et al., CVPR 2016), `bottleneck=True` its 1-3-1 form.

    Images (n, channels, height, width) -> (n, classes); group k has `blocks[k]` blocks of width `width` 2^k and starts with stride 2 from the second group on.
    """

    def __init__(self, channels: Count = 1, classes: Count = 10, blocks: Sequence[int] = (3, 3, 3), width: Count = 16, bottleneck: bool = False):
        super().__init__()
        self.stem, layers, c = _convolution(channels, width), [], width
        for group, count in enumerate(blocks):
            for k in range(count):
                layers.append(_Residual(c, width * 2**group, 2 if group and not k else 1, bottleneck))
                c = width * 2**group * (4 if bottleneck else 1)
        self.blocks, self.head = nn.Sequential(*layers), nn.Linear(c, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))

    @classmethod
    def example(cls) -> tuple["ResNet", torch.Tensor]:
        return cls(1, 3, (1, 1), 2, bottleneck=True), torch.randn(4, 1, 6, 6)


@checked
class UNet(nn.Module):
    """U-Net: encoder and decoder of `depth` levels with skips; images (n, channels, height, width) -> (n, outputs, height, width), sides multiples of 2^depth.

    With `residual` (inputs == outputs) the image is added to the output, as for denoising. Source: Ronneberger, Fischer & Brox, MICCAI 2015.
    """

    def __init__(self, channels: Count = 1, outputs: Count = 1, width: Count = 16, depth: Count = 2, residual: bool = False):
        super().__init__()
        if residual and channels != outputs:
            raise ValueError(f"UNet got residual=True with {channels} channels and {outputs} outputs; they need to be equal.")
        two = lambda a, b: nn.Sequential(_convolution(a, b), _convolution(b, b))
        widths = [width * 2**k for k in range(depth + 1)]
        self.down = nn.ModuleList([two(a, b) for a, b in zip([channels, *widths], widths)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in zip(widths, widths[1:])])
        self.join = nn.ModuleList([two(2 * a, a) for a in widths[:-1]])
        self.pool, self.out, self.residual = nn.MaxPool2d(2), nn.Conv2d(width, outputs, 1), residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, skips = x, []
        for k, block in enumerate(self.down):
            h = block(h if k == 0 else self.pool(h))
            skips.append(h)
        for k in reversed(range(len(self.up))):
            h = self.join[k](torch.cat([skips[k], self.up[k](h)], 1))
        return self.out(h) + x if self.residual else self.out(h)

    @classmethod
    def example(cls) -> tuple["UNet", torch.Tensor]:
        return cls(1, 1, 2, 1, residual=True), torch.randn(4, 1, 4, 4)
