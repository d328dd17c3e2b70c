"""`FilterBank`: several small filters at once."""

import torch

from ..arguments import Array
from .operator import LinearOperator
from .space import Space, SpaceLike, finite

__all__ = ["FilterBank"]


class FilterBank(LinearOperator):
    """u -> (k_1 * u, ..., k_m * u), correlations with m filters where they lie inside the image: (..., h, w) -> (..., m, h - a + 1, w - b + 1) for `filters` (m, a, b).

    Nothing is assumed past the image's ends. `GroupL1Norm() @ FilterBank(filters, space)` is a regulariser with learned filters.
    Raises ValueError where the filters have other axes than (m, a, b), are larger than the image, or differ from it in dtype.
    """

    def __init__(self, filters: Array, space: SpaceLike):
        filters, space = finite(filters, "FilterBank", "tensor of filters"), space if isinstance(space, Space) else Space(space)
        if filters.dim() != 3 or space.ndim != 2 or any(k > n for k, n in zip(filters.shape[1:], space.shape)):
            raise ValueError(f"FilterBank got filters of shape {tuple(filters.shape)} for the space {space.shape}; it needs (m, a, b) and an image (h, w) at least as large.")
        if filters.dtype != space.dtype:
            raise ValueError(f"FilterBank got filters of {filters.dtype} for a space of {space.dtype}; convert one with .to(...).")
        m, a, b = filters.shape
        super().__init__(space, Space((m, space.shape[0] - a + 1, space.shape[1] - b + 1), space.dtype, space.device))
        self.filters = filters

    def _call(self, x):
        return torch.nn.functional.conv2d(x.reshape(-1, 1, *self.domain.shape), self.filters.unsqueeze(1)).reshape(*x.shape[:-2], *self.range.shape)

    def _adjoint(self, y):
        x = torch.nn.functional.conv_transpose2d(y.reshape(-1, *self.range.shape), self._conjugate().unsqueeze(1))
        return x.reshape(*y.shape[:-3], *self.domain.shape)

    def _conjugate(self):
        return self.filters.conj().resolve_conj() if self.filters.is_complex() else self.filters
