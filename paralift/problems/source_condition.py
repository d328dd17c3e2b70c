"""`SourceCondition`: which elements v make an image u a minimiser, K* v in dJ(u)."""

from typing import Annotated, Any

import torch

from ..arguments import Kind, checked
from ..operators.functional import Functional
from ..operators.linear import IdentityOperator
from ..operators.norms import GroupL1Norm, ZeroFunctional
from ..operators.operator import LinearOperator
from ..operators.space import Space, finite, inner
from ..operators.stacks import ProductSpace, Selection
from ..operators.transforms import FourierTransform
from .certificate import Certificate, certain_subgradient, nearest_subgradient
from .composite import Composite
from .problem import Linearisation, Point, Problem, check_point
from .reconstruction import Reconstruction

__all__ = ["SourceCondition"]


def check_image(who, operator, functional, image):
    """(K, image, terms of J), on the joined unknowns where J minimises over some of its own; refuses what no source condition can be asked for, before any work."""
    if not isinstance(operator, LinearOperator) or type(operator)._adjoint is LinearOperator._adjoint:
        raise TypeError(f"{who} got {operator!r} as its operator; it needs a LinearOperator with an adjoint.")
    if not isinstance(functional, Functional):
        raise TypeError(f"{who} got {type(functional).__name__} as its functional; it needs a Functional, such as TotalVariation() or L1Norm() @ A.")
    image, space = finite(image, who, "image"), operator.domain
    if not space.fits(image):
        raise ValueError(f"{who} got an image of shape {tuple(image.shape)}; the operator needs trailing axes {space.shape}.")
    if image.dtype != space.dtype:
        raise TypeError(f"{who} got an image of {image.dtype} for an operator on {space.dtype}; convert one of them.")
    if not functional.convex:
        raise TypeError(f"{who} got {functional!r}, which is not convex, so that it has no subdifferential; take a convex one.")
    own, terms = functional.auxiliary(space), functional.split(space)
    if own:
        product = ProductSpace(space, *own)
        operator, image = operator @ Selection(product, 0), product.join(image, *functional.on(space).minimisers(image))
    if not all(bool(torch.isfinite(t.f(t.op(image))).all()) for t in terms):
        raise ValueError(f"{who} got an image at which {functional!r} is infinite, so that it has no subgradient there; project the image onto the functional's domain.")
    return operator, image, terms


def projects(K, image, seed=0):
    """Whether K*K is (the identity, an orthogonal projector), tried on one random image: for a linear map, almost surely right."""
    x = Space.of(image).randn(generator=torch.Generator().manual_seed(seed))
    y, level = K._normal(x), 1e3 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(x)
    return tuple(bool(torch.linalg.vector_norm(d) <= level) for d in (y - x, K._normal(y) - y))


def penalty(f, x, q):
    """B_f(x, x + q) = f(x) - f(p) - |x - p|^2 / 2 - <q, x - p>, p = prox_f(x + q), summed over the batch."""
    p = f._prox(x + q, 1.0)
    d = x - p
    return (f(x) - f(p)).sum() - 0.5 * inner(d, d) - inner(q, d)


def pull(f, x, q, A=None, r=None):
    """prox_f(x + q) - x, the gradient of B_f(x, x + q) in q, by Moreau q - prox_{f*}(x + q); plus A r."""
    z = x + q
    if isinstance(f, GroupL1Norm) and not z.is_complex():
        g = torch.addcmul(q, z, f._inside(z), value=-1, out=z)                     # one pass less over the largest tensors
    else:
        z = f._conj_prox(z, 1.0, out=z)
        g = torch.sub(q, z, out=z)
    return g if r is None else A._add_to(g, r)


class SourceCondition(Problem):
    """Find v with K* v in dJ(u), u a given image: the minimisers, of value 0, of the lifted Bregman penalty.

    Parameters
    ----------
    operator : K, a LinearOperator.
    functional : J, with a prox of its own (then the block is "v": min_v B_J(u, u + K* v), gradient K(prox_J(u + K* v) - u), Lipschitz constant |K|^2), or a sum of
        f_j @ A_j, such as TotalVariation(), whose `split` is taken: min over v, q of |K* v - sum_j A_j* q_j|^2 / 2 + sum_j B_{f_j}(x_j, x_j + q_j), x_j = A_j u.
    image : u (..., *K.domain.shape); leading axes are images apart, all solved at once.

    start : a point {block: tensor} to begin with, such as `result.x` of a run before; by default zero.

    Blocks "v" and "q" ("q1", "q2", ... for several terms). Where K*K is a projector, as for Fourier data with a mask that is symmetric about the centre, or without one, the
    best v is K sum_j A_j* q_j, and v is no block: PGD(step=1/9) then takes the steps of the authors' PALM for total variation in two dimensions; elsewhere
    BCD(step="lipschitz") is PALM. Faster: FISTA on a single block, BCD(step="lipschitz", inertia=0.7) on several. For a real image and a mask that is not symmetric "v" is
    kept in half the numbers or less; `element(point)` is v itself. A J that minimises over unknowns of its own (TGV) is taken with their minimiser for u: then the A_j act on
    (u, w), and sum_j A_j* q_j is to vanish in w.
    `result.solution` is the `Certificate`. `primal_dual()` is the form for PDHG, `range_data(v, alpha)` and `reconstruction(data, alpha)` try a v out.
    Raises TypeError / ValueError, before work starts, for an operator without adjoint, a functional without prox, an image off its domain, NaN, wrong shapes or dtypes.
    Source: Benning, Bubba, Ratti & Riccio, IMA J. Appl. Math., 2024 (arXiv 2303.00696).
    """

    convex = True

    def __init__(self, operator: LinearOperator, functional: Functional, image: torch.Tensor, start: Point | None = None):
        K, joined, terms = check_image("SourceCondition", operator, functional, image)
        self.operator, self.functional, self.image, self._operator, self._joined = operator, functional, image, K, joined
        self.direct = len(terms) == 1 and isinstance(terms[0].op, IdentityOperator)
        self.potentials, self.analysis = [t.f for t in terms], [t.op for t in terms]
        self.points = [A._call(joined) for A in self.analysis]
        self.names = [] if self.direct else ["q"] if len(terms) == 1 else [f"q{j + 1}" for j in range(len(terms))]
        self.isometric, projector = projects(K, joined)
        self.reduced = not self.direct and projector
        compact = isinstance(K, FourierTransform) and K.real and not self.direct and not self.reduced
        self._inner, self._expand = K.compact() if compact else (K, lambda v: v)             # "v" in half the numbers
        self._gram = self._inner.weight * self._inner.back if compact else None
        self._kept, self._norms, self._start = [], None, None
        fresh = self.start()
        if start is not None and {k: v.shape for k, v in start.items() if k in fresh} != {k: v.shape for k, v in fresh.items()}:
            raise ValueError(f"SourceCondition got a start with {[(k, tuple(v.shape)) for k, v in start.items()]}; it needs {[(k, tuple(v.shape)) for k, v in fresh.items()]}.")
        self._start = start

    # ---- the contract
    def start(self):
        if self._start is not None:
            return {k: v.clone() for k, v in self._start.items() if k in self.names or k == "v" and not self.reduced}
        point = {name: torch.zeros_like(x) for name, x in zip(self.names, self.points)}
        return point if self.reduced else {"v": torch.zeros_like(self._inner._call(self._joined)), **point}

    def _image_of(self, name, v):
        """A_j* q_j or K* v, kept for the tensors seen last."""
        for own, seen, version, image in self._kept:
            if own == name and seen is v and version == v._version:
                return image
        image = self._inner._adjoint(v) if name == "v" else self.analysis[self.names.index(name)]._adjoint(v)
        self._kept = [(name, v, v._version, image), *self._kept[:2 * len(self.names) + 1]]
        return image

    def _synthesis(self, point):
        """sum_j A_j* q_j."""
        parts = [self._image_of(name, point[name]) for name in self.names]
        return parts[0] if len(parts) == 1 else sum(parts)

    def _misfit(self, point):
        """sum_j A_j* q_j - K* v, v the best one in the reduced form; None where that is 0, for K*K = 1."""
        if self.reduced:
            return None if self.isometric else self._operator._complement(self._synthesis(point))
        s = self._synthesis(point)
        if self._gram is None:
            return s - self._image_of("v", point["v"])
        w = self._inner._adjoint(point["v"])
        return torch.sub(s, w, out=w)

    def linearise(self, point, blocks=None):
        value, gradient = self._values_and_gradients(point, list(point) if blocks is None else blocks, True)
        return Linearisation(value, gradient)

    def gradient(self, point, blocks=None):
        return self._values_and_gradients(point, list(point) if blocks is None else blocks, False)[1]

    def _values_and_gradients(self, point, blocks, valued):
        if self.direct:
            w = self._image_of("v", point["v"])
            f, u = self.potentials[0], self.image
            return penalty(f, u, w) if valued else None, {"v": self._operator._call(f._prox(u + w, 1.0) - u)} if "v" in blocks else {}
        if self._gram is not None and not valued and blocks == ["v"]:             # K (K* v - s) without going through the image K* v
            return None, {"v": torch.mul(self._gram, point["v"]).sub_(self._inner._call(self._synthesis(point)))}
        r, gradient, value = self._misfit(point), {}, None
        if "v" in blocks:
            gradient["v"] = self._inner._call(r).neg_()
        if valued:
            value = self.image.real.new_zeros(()) if r is None else 0.5 * inner(r, r)
        for j, (name, x, A) in enumerate(zip(self.names, self.points, self.analysis)):
            if valued:
                value = value + penalty(self.potentials[j], x, point[name])
            if name in blocks:
                gradient[name] = pull(self.potentials[j], x, point[name], A, r)
        return value, gradient

    def nonsmooth_value(self, point):
        return self.image.real.new_zeros(())

    def prox(self, point, steps):
        return point

    def lipschitz(self, point, blocks=None):
        if self._norms is None:
            self._norms = {"v": (self.operator.norm() ** 2), **{name: A.norm() ** 2 + 1 for name, A in zip(self.names, self.analysis)}}
        scale = len(self.names) if self.reduced else 1           # blocks of one misfit
        return {k: scale * self._norms[k] for k in point if blocks is None or k in blocks}

    def sweep_order(self):
        return [(name,) for name in ([] if self.reduced else ["v"]) + self.names]

    def finish(self, point):
        return self.certificate(point)

    # ---- what is proved
    def element(self, point: Point) -> torch.Tensor:
        """v of a point."""
        check_point("SourceCondition.element", point, {k: v for k, v in self.start().items() if self.reduced or k == "v"})
        return self._operator._call(self._synthesis(point)) if self.reduced else self._expand(point["v"])

    def certificate(self, point: Point, tolerance: float = 1e-12) -> Certificate:
        """The `Certificate` of a point {block: tensor}; for norms, entries of A u + b below `tolerance` times the largest count as 0, which shows in the gap."""
        check_point("SourceCondition.certificate", point, self.start())
        return self._certificate(self.element(point), [point[name] for name in self.names], tolerance)

    def _certificate(self, v, q, tolerance=1e-12):
        w, K = self._operator._adjoint(v), self._operator
        q, size = [w] if self.direct else q, lambda x, n: inner(x, x, n).sqrt()
        residual = sum(size(f._prox(x + g, 1.0) - x, A.range.ndim) ** 2 for f, x, g, A in zip(self.potentials, self.points, q, self.analysis)).sqrt()
        hidden = len(self.functional.auxiliary(self.operator.domain)) > 0
        q = self.functional.feasible_duals(self.operator.domain, q)
        found = [certain_subgradient(f, x, g) if hidden else nearest_subgradient(f, x, g, tolerance) for f, x, g in zip(self.potentials, self.points, q)]
        if any(pair is None for pair in found):
            return Certificate(size(v, K.range.ndim), None, None, residual, v, [p and p[0] for p in found])
        inside = [p for p, _ in found]
        distance = size(w - sum(A._adjoint(p) for A, p in zip(self.analysis, inside)), K.domain.ndim)
        return Certificate(size(v, K.range.ndim), distance, sum(gap for _, gap in found), residual, v, inside)

    # ---- data in the range, and the primal-dual form
    def primal_dual(self) -> Composite:
        """min J(x) with K x = K u as a Composite for PDHG; `from_dual(result)` is the certificate of its dual variables. For one image or a batch."""
        constraint = ZeroFunctional().convex_conj.translated(self._operator._call(self._joined)) @ self._operator
        terms = [f @ A for f, A in zip(self.potentials, self.analysis)]
        return Composite(linear=[*terms, constraint], start=torch.zeros_like(self._joined))

    @checked
    def from_dual(self, result: Annotated[Any, Kind("a Result", lambda v: hasattr(v, "state"))]) -> Certificate:
        """The `Certificate` of PDHG's result on `primal_dual()`: v = -y, y the dual variable of K x = K u."""
        if "dual" not in result.state:
            raise ValueError("SourceCondition.from_dual got a result without dual variables; it needs PDHG's on primal_dual().")
        *q, y = result.state["dual"]
        if len(q) != len(self.potentials) or any(not A.range.fits(g) for A, g in zip(self.analysis, q)) or not self._operator.range.fits(y):
            raise ValueError("SourceCondition.from_dual got the result of another problem; it needs PDHG's on primal_dual().")
        return self._certificate(-y, q)

    @checked
    def range_data(self, v: torch.Tensor, alpha: float) -> torch.Tensor:
        """alpha v + K u, from which |K x - data|^2 / 2 + alpha J(x) gives u back if K* v is in dJ(u)."""
        return alpha * v + self.operator._call(self.image)

    @checked
    def reconstruction(self, data: torch.Tensor, alpha: float) -> Composite:
        """min_x |K x - data|^2 / 2 + alpha J(x), a `Reconstruction`."""
        return Reconstruction(self.operator, data, regulariser=alpha * self.functional)

    def __repr__(self):
        form = "prox" if self.direct else "reduced" if self.reduced else "composite"
        return f"SourceCondition({self.operator!r}, {self.functional!r}, images {tuple(self.image.shape)}, {form} form)"
