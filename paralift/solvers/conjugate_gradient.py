"""Conjugate gradients on the normal equations."""

from math import inf

import torch

from ..arguments import Count, Extended
from ..operators.functional_algebra import _Composed, _Sum
from ..operators.norms import QuadraticForm
from ..operators.operator import Operator
from ..operators.space import inner, norm
from .solver import Solver
from .stopping import Tolerance

__all__ = ["ConjugateGradient"]


class ConjugateGradient(Solver):
    """min E(x), E quadratic: |A x - b|^2 / 2 plus quadratic regularisers such as a * L2NormSquared() or a * L2NormSquared() @ Gradient(space), by H x = -grad E(0), H the Hessian.
    Every sample of a batch has its own step lengths.

    Parameters
    ----------
    preconditioner : LinearOperator near H^-1, symmetric positive definite; None for none.

    H x takes A and A* once each, or `A._normal(x)` where the operator has a cheaper way to A*A x. residual: |grad E(x)| = |A*(A x - b) + ...|, carried along by the iteration. The
    objective follows from it without another product, to rounding of E(0).
    E falls in every iteration; |x_k - x*|_H <= 2 ((sqrt(c) - 1)/(sqrt(c) + 1))^k |x_0 - x*|_H, c the condition number of H; of several minimisers the one nearest to
    the start.
    Without a regulariser the number of iterations regularises: stop early where b is noisy. Source: Hestenes & Stiefel, J. Res. Natl. Bur. Stand. 49(6), 1952.
    """

    splits = True

    def __init__(self, max_iterations: Count = 100, preconditioner: Operator | None = None, tolerance: float | Tolerance = 0.0, max_seconds: Extended = inf):
        super().__init__(max_iterations, tolerance, max_seconds)
        if preconditioner is not None and not (isinstance(preconditioner, Operator) and preconditioner.is_linear and preconditioner.domain.shape == preconditioner.range.shape):
            raise TypeError(f"ConjugateGradient got preconditioner={preconditioner!r}; it needs a LinearOperator from images to images, near the inverse of A*A.")
        self.preconditioner = preconditioner

    def check(self, problem):
        super().check(problem)
        if not hasattr(problem, "smooth_part"):
            raise TypeError(f"ConjugateGradient cannot solve {type(problem).__name__}: it needs a Composite or a Reconstruction of quadratic parts; use PGD or BCD.")
        for f, _ in self._parts(problem):
            if not _quadratic(f):
                raise TypeError(f"ConjugateGradient cannot treat {f!r}, which is not quadratic; use FISTA, PDHG or ADMM.")
        x = problem.start()["x"]
        if self.preconditioner is not None and not self.preconditioner.domain.fits(x):
            raise ValueError(f"ConjugateGradient got a preconditioner on {self.preconditioner.domain.shape} for images of shape {tuple(x.shape)}.")

    @staticmethod
    def _parts(problem):
        """[(f, K or None)]: E = sum f(K x)."""
        found, todo = list(problem.linear), [problem.smooth_part, problem.nonsmooth_part]
        while todo:
            f = todo.pop()
            if isinstance(f, _Sum):
                todo += [f.f, f.g]
            elif f is not None:
                found.append((f.f, f.op) if isinstance(f, _Composed) and f.op.is_linear else (f, None))
        return found

    @staticmethod
    def _gradient(parts, x):
        """grad E(x)."""
        return sum(f._gradient(x) if K is None else K._adjoint(f._gradient(K._call(x))) for f, K in parts)

    @staticmethod
    def _hessian(parts, v):
        """H v; `_normal` of an operator serves where f has constant curvature."""
        total = 0.0
        for f, K in parts:
            if K is None:
                total = total + (f.curvature * v if f.curvature else f._gradient(v) - f._gradient(torch.zeros_like(v)))
            elif f.curvature:
                total = total + f.curvature * K._normal(v)
            else:
                z = K._call(v)
                total = total + K._adjoint(f._gradient(z) - f._gradient(torch.zeros_like(z)))
        return total

    def _preconditioned(self, r):
        return r if self.preconditioner is None else self.preconditioner._call(r)

    def _dot(self, problem, a, b):
        """Re <a, b> of every sample, with axes of length 1 to multiply images by."""
        ndim = self._ndim(problem, a)
        return inner(a, b, ndim).reshape(a.shape[:a.dim() - ndim] + (1,) * ndim)

    @staticmethod
    def _ndim(problem, x):
        spaces = [K.domain for _, K in ConjugateGradient._parts(problem) if K is not None]
        return spaces[0].ndim if spaces else x.dim()

    def start(self, problem):
        x, parts = problem.start()["x"], self._parts(problem)
        offset = -self._gradient(parts, torch.zeros_like(x))
        r = -self._gradient(parts, x)
        p = self._preconditioned(r)
        return {"point": {"x": x}, "offset": offset, "r": r, "p": p, "rz": self._dot(problem, r, p), "first": float(problem.value({"x": torch.zeros_like(x)}))}

    def step(self, problem, state):
        x, r, p, rz, tiny = state["point"]["x"], state["r"], state["p"], state["rz"], torch.finfo(state["r"].dtype).tiny
        q = self._hessian(self._parts(problem), p)
        a = rz / self._dot(problem, p, q).clamp(min=tiny)
        x, r = x + a * p, r - a * q
        z = self._preconditioned(r)
        new = self._dot(problem, r, z)
        state = {**state, "point": {"x": x}, "r": r, "p": torch.addcmul(z, new / rz.clamp(min=tiny), p), "rz": new}

        def record():                                    # E(x) = E(0) - <offset, x> + <x, H x> / 2, H x = offset - r
            change = 0.5 * inner(x.to(torch.complex128 if x.is_complex() else torch.float64), state["offset"] + r)
            return {"objective": state["first"] - change, "residual": norm(r), **problem.metrics({"x": x})}

        return state, record


def _quadratic(f):
    return isinstance(f, QuadraticForm) or f.curvature > 0
