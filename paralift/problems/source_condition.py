"""`SourceCondition`: which elements v make an image u a minimiser, K* v in dJ(u)."""

import torch

from ..arguments import checked
from ..operators.functional import Functional
from ..operators.least_squares import LeastSquares
from ..operators.linear import IdentityOperator
from ..operators.norms import ZeroFunctional
from ..operators.operator import LinearOperator
from ..operators.space import finite, inner
from ..operators.transforms import FourierTransform
from .certificate import Certificate, project_subdifferential
from .composite import Composite
from .problem import Linearisation, Problem, check_point

__all__ = ["SourceCondition"]


def check_image(who, operator, functional, image):
    """(image, terms of J): refuses what no source condition can be asked for, before any work."""
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
    if functional.auxiliary(space):
        raise TypeError(f"{who} got {functional!r}, which minimises over unknowns of its own; pass f @ A on the joined unknown, with the image and its minimiser joined.")
    terms = functional.split(space)
    if not all(bool(torch.isfinite(t.f(t.op(image))).all()) for t in terms):
        raise ValueError(f"{who} got an image at which {functional!r} is infinite, so that it has no subgradient there; project the image onto the functional's domain.")
    return image, terms


def projects(normal, image, seed=0):
    """Whether A*A is an orthogonal projector, tried on one random image: for a linear map, almost surely right."""
    x = torch.randn(image.shape, dtype=image.dtype, device=image.device, generator=torch.Generator(image.device).manual_seed(seed))
    y = normal(x)
    return bool(torch.linalg.vector_norm(normal(y) - y) <= 1e3 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(x))


def penalty(f, x, q):
    """B_f(x, x + q) = f(x) - f(p) - |x - p|^2 / 2 - <q, x - p>, p = prox_f(x + q), summed over the batch."""
    p = f._prox(x + q, 1.0)
    d = x - p
    return (f(x) - f(p)).sum() - 0.5 * inner(d, d) - inner(q, d)


def pull(into, f, x, q):
    """`into` (which is overwritten) plus prox_f(x + q) - x, the gradient of B_f(x, x + q) in q, by Moreau q - prox_{f*}(x + q)."""
    z = x + q
    return into.add_(q).sub_(f._conj_prox(z, 1.0, out=z))


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
    best v is K sum_j A_j* q_j, and "q" is the only block: PGD(step=1/9) then takes the steps of the authors' PALM for total variation in two dimensions, and FISTA is
    faster; elsewhere BCD(step="lipschitz") is PALM. For a real image and a mask that is not symmetric "v" is kept in half the numbers; `element(point)` is v itself.
    `result.solution` is the `Certificate`. `primal_dual()` is the form for PDHG, `range_data(v, alpha)` and `reconstruction(v, alpha)` try a v out.
    Raises TypeError / ValueError, before work starts, for an operator without adjoint, a functional without prox, an image off its domain, NaN, wrong shapes or dtypes.
    Source: Benning, Bubba, Ratti & Riccio, IMA J. Appl. Math., 2024 (arXiv 2303.00696).
    """

    convex = True

    def __init__(self, operator, functional, image, start=None):
        image, terms = check_image("SourceCondition", operator, functional, image)
        self.operator, self.functional, self.image = operator, functional, image
        self.direct = len(terms) == 1 and isinstance(terms[0].op, IdentityOperator)
        self.potentials, self.analysis = [t.f for t in terms], [t.op for t in terms]
        self.points = [A._call(image) for A in self.analysis]
        self.names = [] if self.direct else ["q"] if len(terms) == 1 else [f"q{j + 1}" for j in range(len(terms))]
        self._normal = operator.normal if callable(getattr(operator, "normal", None)) else lambda x: operator._adjoint(operator._call(x))
        self.reduced = not self.direct and projects(self._normal, image)
        compact = isinstance(operator, FourierTransform) and operator.real and not self.direct and not self.reduced
        self._inner, self._expand = operator.compact() if compact else (operator, lambda v: v)             # "v" in half the numbers
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
        return point if self.reduced else {"v": torch.zeros_like(self._inner._call(self.image)), **point}

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
        """sum_j A_j* q_j - K* v, v the best one in the reduced form."""
        s = self._synthesis(point)
        return s - self._normal(s) if self.reduced else s - self._image_of("v", point["v"])

    def linearise(self, point, blocks=None):
        value, gradient = self._values_and_gradients(point, list(point) if blocks is None else blocks, True)
        return Linearisation(value, gradient)

    def gradient(self, point, blocks=None):
        return self._values_and_gradients(point, list(point) if blocks is None else blocks, False)[1]

    def _values_and_gradients(self, point, blocks, valued):
        if self.direct:
            w = self._image_of("v", point["v"])
            f, u = self.potentials[0], self.image
            return penalty(f, u, w) if valued else None, {"v": self.operator._call(f._prox(u + w, 1.0) - u)} if "v" in blocks else {}
        r, gradient, value = self._misfit(point), {}, None
        if "v" in blocks:
            gradient["v"] = self._inner._call(r).neg_()
        if valued:
            value = 0.5 * inner(r, r)
        for j, (name, x, A) in enumerate(zip(self.names, self.points, self.analysis)):
            if valued:
                value = value + penalty(self.potentials[j], x, point[name])
            if name in blocks:
                gradient[name] = pull(A._call(r), self.potentials[j], x, point[name])
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

    def finish(self, point):
        return self.certificate(point)

    # ---- what is proved
    def element(self, point):
        """v of a point."""
        check_point("SourceCondition.element", point, self.names if self.reduced else ["v"])
        return self.operator._call(self._synthesis(point)) if self.reduced else self._expand(point["v"])

    def certificate(self, point):
        """The `Certificate` of a point {block: tensor}."""
        check_point("SourceCondition.certificate", point, self.names if self.reduced else ["v", *self.names])
        return self._certificate(self.element(point), [point[name] for name in self.names])

    def _certificate(self, v, q):
        w, K = self.operator._adjoint(v), self.operator
        q = [w] if self.direct else q
        size = lambda x, n: inner(x, x, n).sqrt()
        inside = [project_subdifferential(f, x, g) for f, x, g in zip(self.potentials, self.points, q)]
        distance = None
        if all(g is not None for g in inside):
            distance = size(w - sum(A._adjoint(g) for A, g in zip(self.analysis, inside)), K.domain.ndim)
        residual = sum(size(f._prox(x + g, 1.0) - x, A.range.ndim) ** 2 for f, x, g, A in zip(self.potentials, self.points, q, self.analysis)).sqrt()
        return Certificate(size(v, K.range.ndim), distance, residual, v, inside)

    # ---- data in the range, and the primal-dual form
    def primal_dual(self):
        """min J(x) with K x = K u as a Composite for PDHG; `from_dual(result)` is the certificate of its dual variables. For one image or a batch."""
        constraint = ZeroFunctional().convex_conj.translated(self.operator._call(self.image)) @ self.operator
        return Composite(linear=[*self._terms(1.0), constraint], start=torch.zeros_like(self.image))

    @checked
    def from_dual(self, result):
        """The `Certificate` of PDHG's result on `primal_dual()`: v = -y, y the dual variable of K x = K u."""
        if "dual" not in result.state:
            raise ValueError("SourceCondition.from_dual got a result without dual variables; it needs PDHG's on primal_dual().")
        *q, y = result.state["dual"]
        return self._certificate(-y, q)

    @checked
    def range_data(self, v, alpha):
        """alpha v + K u, from which |K x - data|^2 / 2 + alpha J(x) gives u back if K* v is in dJ(u)."""
        return alpha * v + self.operator._call(self.image)

    @checked
    def reconstruction(self, data, alpha):
        """min_x |K x - data|^2 / 2 + alpha J(x), a Composite (for FISTA where J has a prox of its own, for PDHG elsewhere)."""
        smooth = LeastSquares(self.operator, data)
        start = torch.zeros_like(self.image)
        return Composite(smooth, nonsmooth=alpha * self.functional, start=start) if self.direct else Composite(smooth, linear=self._terms(alpha), start=start)

    def _terms(self, a):
        return [(a * f if a != 1 else f) @ A for f, A in zip(self.potentials, self.analysis)]

    def __repr__(self):
        form = "prox" if self.direct else "reduced" if self.reduced else "composite"
        return f"SourceCondition({self.operator!r}, {self.functional!r}, images {tuple(self.image.shape)}, {form} form)"
