"""Maximum-likelihood expectation maximisation for counts, on all data or on ordered subsets."""

from math import inf

import torch

from ..arguments import Count, Extended
from ..operators.entropies import KullbackLeibler
from ..operators.functional_algebra import _Composed, _Scaled
from ..operators.indicators import IndicatorNonnegative
from .solver import Solver
from .stopping import Tolerance

__all__ = ["MLEM", "OSEM"]


class MLEM(Solver):
    """x+ = x / A*1 * A*(b / (A x + r)),  min sum_i (A x + r)_i - b_i log (A x + r)_i over x >= 0: Poisson counts b, background r.

    Takes `Reconstruction(A, b, "poisson")` or Composite(KullbackLeibler(b) @ A, IndicatorNonnegative(), start=...), without a regulariser; A maps images >= 0 to data >= 0.
    The start must be > 0 where the image is to be. Voxels that no datum sees (A*1 = 0) become 0.

    residual: |x grad F(x)| at the x of the step, in counts (x >= 0, grad F >= 0 and x grad F = 0 are the optimality conditions). F falls in every iteration, and
    F(x_k) - F* <= sum x* A*1 log(x* / x_0) / k where sum x* A*1 = sum x_k A*1 (so for r = 0, k >= 1).
    Sources: Shepp & Vardi, IEEE Trans. Med. Imaging 1(2), 1982; Lange & Carson, J. Comput. Assist. Tomogr. 8(2), 1984; rate: Csiszar & Tusnady, Stat. Decis., Suppl. 1, 1984.
    """

    needs = (("smooth", "its data term has no gradient; use PDHG."),)
    subsets = 1

    def __init__(self, max_iterations: Count = 50, tolerance: float | Tolerance = 0.0, max_seconds: Extended = inf):
        super().__init__(max_iterations, tolerance, max_seconds)

    def form(self, problem):
        return problem.prox_form(self.subsets)

    def check(self, problem):
        super().check(problem)
        name, F, G = type(self).__name__, getattr(problem, "smooth_part", None), getattr(problem, "nonsmooth_part", None)
        if _poisson(F) is None:
            raise TypeError(f"{name} cannot solve {type(problem).__name__}: it needs counts, Reconstruction(A, counts, 'poisson') or Composite(KullbackLeibler(b) @ A, ...); "
                            "use ConjugateGradient for Gaussian data, FISTA or PDHG for others.")
        if G is not None and not isinstance(G, IndicatorNonnegative):
            raise TypeError(f"{name} cannot treat {G!r}: it minimises the data term over x >= 0 only; use PDHG, SPDHG(subsets=...) or FISTA.")
        if len(self._terms(problem)) != self.subsets:
            raise TypeError(f"{name} got subsets={self.subsets} for {type(problem).__name__}, which gives no such subsets; use a Reconstruction, or SPDHG.")
        x = problem.start()["x"]
        if not ((x >= 0).all() and (x > 0).any()):
            raise ValueError(f"{name} got a start that is 0 or below somewhere, where it multiplies for ever; pass a start > 0 (zeros in it stay zeros), or use PDHG.")
        seen = self._sensitivity(F, x)
        if (seen < -1e-6 * seen.max()).any():
            raise ValueError(f"{name} got an operator whose A*1 is below 0 somewhere; it needs one that keeps images >= 0 nonnegative; use PDHG.")

    @staticmethod
    def _terms(problem):
        return problem.subsets or (problem.smooth_part,)

    @staticmethod
    def _sensitivity(term, x):
        """A*1, of the image's shape."""
        A = _poisson(term)[1]
        seen = A._adjoint(torch.ones_like(A._call(x)))
        return torch.where(seen.abs() <= 10 * torch.finfo(x.dtype).eps * seen.max(), 0, seen)              # what transforms leave of a 0

    def start(self, problem):
        x = problem.start()["x"]
        seen = [self._sensitivity(term, x) for term in self._terms(problem)]
        return {"point": {"x": torch.where(sum(seen) > 0, x, 0)}, "sensitivity": seen}

    def step(self, problem, state):
        x, size = state["point"]["x"], 0.0
        for term, seen in zip(self._terms(problem), state["sensitivity"]):
            counts, A, background = _poisson(term)
            z = term.image(x)
            expected = z if background is None else z + background
            back = A._adjoint(torch.where(counts > 0, counts / expected, 0)).clamp(min=0)
            new = torch.where(seen > 0, x / seen * back, x)
            size, x = size + torch.linalg.vector_norm(seen * (new - x)) ** 2, new
        return {**state, "point": {"x": x}}, lambda: {"objective": problem.value({"x": x}), "residual": size.sqrt(), **problem.metrics({"x": x})}


class OSEM(MLEM):
    """MLEM on ordered subsets: an iteration is one MLEM step on each of `subsets` parts of the data (rows j, j + subsets, ... of the operator, such as views) in turn.

    About `subsets` times as fast as MLEM at first; it ends in a cycle near the maximum likelihood, so the objective may rise: take few subsets at the end, or SPDHG, which
    converges.
    subsets=1 is MLEM. residual: the root of the sum of squares of the parts' |x grad F_j(x)|, which does not vanish where the parts disagree.
    Source: Hudson & Larkin, IEEE Trans. Med. Imaging 13(4), 1994.
    """

    def __init__(self, max_iterations: Count = 10, subsets: Count = 8, tolerance: float | Tolerance = 0.0, max_seconds: Extended = inf):
        super().__init__(max_iterations, tolerance, max_seconds)
        self.subsets = subsets


def _poisson(term):
    """(counts, A, background or None) of a * KL(counts, A x + background); None for other terms."""
    while isinstance(term, _Scaled):
        term = term.f
    if not isinstance(term, _Composed) or not term.op.is_linear:
        return None
    f = term.f
    while isinstance(f, _Scaled) or getattr(f, "transparent", False):
        f = f.f
    return (f.data, term.op, f.background) if isinstance(f, KullbackLeibler) else None
