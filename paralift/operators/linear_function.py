"""A linear map given by two callables as one differentiable operation."""

from collections.abc import Callable

import torch

__all__ = ["linear_function"]


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(x, forward, adjoint):
        return forward(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.forward_map, ctx.adjoint_map = inputs[1:]

    @staticmethod
    def backward(ctx, g):
        return _LinearFunction.apply(g, ctx.adjoint_map, ctx.forward_map), None, None

    @staticmethod
    def jvp(ctx, dx, *_):
        return _LinearFunction.apply(dx, ctx.forward_map, ctx.adjoint_map)

    @staticmethod
    def vmap(info, dims, x, forward, adjoint):
        return _LinearFunction.apply(x.movedim(dims[0], 0), forward, adjoint), 0


def linear_function(x: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor], adjoint: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """forward(x), whose derivatives of every order (backward, jvp, vmap) are the two callables: for linear maps that torch cannot differentiate, such as
    products with stored sparse matrices and calls of other libraries. Both callables take leading batch axes and plain tensors."""
    if (x.requires_grad and torch.is_grad_enabled()) or torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return _LinearFunction.apply(x, forward, adjoint)
    return forward(x)                                              # nobody differentiates: without autograd's bookkeeping, as long as a pass over an image
