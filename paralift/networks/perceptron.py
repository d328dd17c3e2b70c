"""Multilayer perceptrons, of any depth, and a start for very deep ones."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from ..arguments import Count, checked

__all__ = ["MLP", "rescale"]


class Chain(nn.Sequential):
    """A Sequential whose slices are plain ones, of the same modules under the same names."""

    def __getitem__(self, index):
        return nn.Sequential(OrderedDict(self._modules))[index]


@checked
class MLP(Chain):
    """Linear layers with an activation between them: `MLP(784, 256, 256, 10)`; very deep: `MLP(784, *[64] * 50, 10)`.

    Parameters
    ----------
    sizes : input, hidden and output widths, at least two.
    activation : a class or function that makes the activation module.
    """

    def __init__(self, *sizes: Count, activation: Callable[[], nn.Module] = nn.ReLU):
        if len(sizes) < 2:
            raise ValueError(f"MLP got the sizes {sizes}; it needs at least an input and an output width.")
        layers = [module for a, b in zip(sizes, sizes[1:]) for module in (nn.Linear(a, b), activation())]
        super().__init__(*layers[:-1])

    @classmethod
    def example(cls) -> tuple["MLP", torch.Tensor]:
        return cls(6, 5, 4, 3), torch.randn(4, 6)


@checked
@torch.no_grad()
def rescale(network: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Scale every weight layer of `network`, in place and in the order of its forward pass, so that its outputs on `inputs` have mean square 1; biases become 0.

    Without it the signal of a deep plain ReLU network shrinks by about 0.4 a layer from torch's default start, and all samples look alike after twenty.
    Source: layer-sequential unit variance, Mishkin & Matas, ICLR 2016 (without its orthogonal start). Returns the network.
    """
    def scaled(module, arguments, output):
        size = output.square().mean().sqrt().clamp(min=1e-30)
        module.weight.div_(size)
        if module.bias is not None:
            output = output - module.bias if output.dim() == 2 else output - module.bias.view(-1, *[1] * (output.dim() - 2))
            module.bias.zero_()
            size2 = output.square().mean().sqrt().clamp(min=1e-30)
            module.weight.mul_(size / size2)
            size = size2
        return output / size

    handles = [m.register_forward_hook(scaled) for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return network
