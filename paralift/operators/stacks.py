"""Stacks of linear operators: a column, a row, a diagonal; their joined elements are flat."""


import torch

from ..arguments import Integers, checked, shown
from .operator import LinearOperator
from .space import Space

__all__ = ["ProductSpace", "Selection", "VerticalStack", "HorizontalStack", "DiagonalStack"]


@checked
class ProductSpace(Space):
    """X_1 x ... x X_k as one flat axis: `space.join(x_1, ..., x_k)` (..., n_1 + ... + n_k), `space.split(x)` -> the parts, each in its own shape.

    Raises ValueError where the spaces differ in dtype or device, or there is none.
    """

    spaces: tuple[Space, ...]

    def __init__(self, *spaces: Space):
        if not spaces or any((s.dtype, s.device) != (spaces[0].dtype, spaces[0].device) for s in spaces):
            raise ValueError(f"ProductSpace got the spaces {list(spaces)}; it needs at least one, and one dtype and device for all.")
        super().__init__((sum(s.size for s in spaces),), spaces[0].dtype, spaces[0].device)
        object.__setattr__(self, "spaces", spaces)

    def join(self, *parts: torch.Tensor) -> torch.Tensor:
        if len(parts) != len(self.spaces) or not all(s.fits(p) for s, p in zip(self.spaces, parts)):
            raise ValueError(f"join got the parts {', '.join(map(shown, parts))}; it needs trailing axes {[s.shape for s in self.spaces]}.")
        return torch.cat([p.reshape(*p.shape[:p.dim() - s.ndim], s.size) for s, p in zip(self.spaces, parts)], -1)

    def split(self, x: torch.Tensor) -> list[torch.Tensor]:
        if not self.fits(x):
            raise ValueError(f"split got {shown(x)}; it needs a last axis of {self.size}.")
        return [p.reshape(*x.shape[:-1], *s.shape) for s, p in zip(self.spaces, x.split([s.size for s in self.spaces], -1))]


class Selection(LinearOperator):
    """(x_1, ..., x_k) -> x_i for a number i, in its own shape, or (x_i, x_j, ...) for several, joined: some parts of the elements of a ProductSpace."""

    def __init__(self, product: ProductSpace, index: Integers):
        self.index = (index,) if isinstance(index, int) else tuple(index)
        if not isinstance(product, ProductSpace) or not self.index or any(not 0 <= i < len(product.spaces) for i in self.index) or len(set(self.index)) < len(self.index):
            raise ValueError(f"Selection got {product!r} and the parts {self.index}; it needs a ProductSpace and different numbers of its parts.")
        chosen = [product.spaces[i] for i in self.index]
        super().__init__(product, chosen[0] if len(chosen) == 1 else ProductSpace(*chosen))

    def norm(self, iterations=0, tolerance=0.0, seed=0):
        return 1.0

    def _call(self, x):
        parts = self.domain.split(x)
        return parts[self.index[0]].clone() if len(self.index) == 1 else self.range.join(*(parts[i] for i in self.index))

    def _adjoint(self, y):
        given = [y] if len(self.index) == 1 else self.range.split(y)
        batch = y.shape[:y.dim() - self.range.ndim]
        parts = [y.new_zeros(*batch, s.size) for s in self.domain.spaces]
        for i, p in zip(self.index, given):
            parts[i] = p.reshape(*batch, self.domain.spaces[i].size)
        return torch.cat(parts, -1)


def _check(name, operators, side):
    if not operators or not all(op.is_linear for op in operators):
        raise ValueError(f"{name} got {list(operators)}; it needs at least one operator, and linear ones.")
    shapes = [getattr(op, side).shape for op in operators] if side else []
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"{name} got the {side}s {shapes}; they need to be equal.")
    return operators


class VerticalStack(LinearOperator):
    """x -> (A_1 x, ..., A_k x), joined on one flat axis; `stack.range.split(y)` gives the parts.

    Raises ValueError where an operator is not linear or the domains differ.
    """

    def __init__(self, *operators: LinearOperator):
        self.operators = _check("VerticalStack", operators, "domain")
        super().__init__(operators[0].domain, ProductSpace(*(op.range for op in operators)))

    def _call(self, x):
        return self.range.join(*(op._call(x) for op in self.operators))

    def _adjoint(self, y):
        return sum(op._adjoint(p) for op, p in zip(self.operators, self.range.split(y)))


class HorizontalStack(LinearOperator):
    """(x_1, ..., x_k) -> A_1 x_1 + ... + A_k x_k, the parts joined on one flat axis: `stack(stack.domain.join(x_1, ..., x_k))`.

    Raises ValueError where an operator is not linear or the ranges differ.
    """

    def __init__(self, *operators: LinearOperator):
        self.operators = _check("HorizontalStack", operators, "range")
        super().__init__(ProductSpace(*(op.domain for op in operators)), operators[0].range)

    def _call(self, x):
        return sum(op._call(p) for op, p in zip(self.operators, self.domain.split(x)))

    def _adjoint(self, y):
        return self.domain.join(*(op._adjoint(y) for op in self.operators))


class DiagonalStack(LinearOperator):
    """(x_1, ..., x_k) -> (A_1 x_1, ..., A_k x_k), both sides joined on one flat axis. Raises ValueError where an operator is not linear."""

    def __init__(self, *operators: LinearOperator):
        self.operators = _check("DiagonalStack", operators, None)
        super().__init__(ProductSpace(*(op.domain for op in operators)), ProductSpace(*(op.range for op in operators)))

    def _call(self, x):
        return self.range.join(*(op._call(p) for op, p in zip(self.operators, self.domain.split(x))))

    def _adjoint(self, y):
        return self.domain.join(*(op._adjoint(p) for op, p in zip(self.operators, self.range.split(y))))
