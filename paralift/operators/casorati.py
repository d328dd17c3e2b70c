"""`Casorati`: frames as the rows of a matrix, for low rank."""

import math

from .operator import LinearOperator
from .space import Space, SpaceLike

__all__ = ["Casorati"]


class Casorati(LinearOperator):
    """(frames, *pixels) -> the matrix (frames, number of pixels), unitary: `NuclearNorm() @ Casorati(space)` asks the frames to have low rank, and has an exact prox.

    Raises ValueError where the space has fewer than two axes. Source: Liang, IEEE ISBI 2007.
    """

    unitary = True

    def __init__(self, space: SpaceLike):
        space = space if isinstance(space, Space) else Space(space)
        if space.ndim < 2:
            raise ValueError(f"Casorati got the space {space.shape}; it needs a first axis of frames and at least one of pixels.")
        super().__init__(space, Space((space.shape[0], math.prod(space.shape[1:])), space.dtype, space.device))

    def _call(self, x):
        return x.flatten(1 - self.domain.ndim).clone()                   # of its own: solvers write into what a product gives

    def _adjoint(self, y):
        return y.unflatten(-1, self.domain.shape[1:]).clone()
