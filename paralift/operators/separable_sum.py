"""`SeparableSum`: a functional of several elements."""

import torch

from ..arguments import checked, shown
from .functional import Functional

__all__ = ["SeparableSum"]


@checked
class SeparableSum:
    """f_1(x_1) + ... + f_k(x_k) on tuples of tensors; value, gradient and prox act part by part. Raises ValueError where the number of parts differs from k."""

    def __init__(self, *functionals: Functional):
        if not functionals:
            raise ValueError("SeparableSum got no functionals; it needs at least one.")
        self.functionals = functionals

    def _parts(self, x):
        if not isinstance(x, (tuple, list)):
            raise TypeError(f"SeparableSum got {shown(x)}; it needs a tuple of tensors, one for each of its {len(self.functionals)} functionals.")
        if len(x) != len(self.functionals):
            raise ValueError(f"SeparableSum got {len(x)} elements; its {len(self.functionals)} functionals need one each.")
        return zip(self.functionals, x)

    def __call__(self, x: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return sum(f(part) for f, part in self._parts(x))

    def gradient(self, x: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(f.gradient(part) for f, part in self._parts(x))

    def prox(self, x: tuple[torch.Tensor, ...], sigma: float | torch.Tensor = 1.0) -> tuple[torch.Tensor, ...]:
        return tuple(f.prox(part, sigma) for f, part in self._parts(x))
