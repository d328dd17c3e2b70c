"""`Reconstruction`: an image from measured data."""

import copy
from math import inf

import torch

from ..arguments import Quantity, checked
from ..operators.dual_prox import DualProx
from ..operators.entropies import KullbackLeibler
from ..operators.functional import Functional
from ..operators.indicator_real import IndicatorReal
from ..operators.indicators import IndicatorNonnegative
from ..operators.joint_prox import JointProx
from ..operators.linear import DiagonalOperator, IdentityOperator
from ..operators.norms import L2NormSquared
from ..operators.operator import LinearOperator, Operator, _Composition
from ..operators.space import Space, all_finite, finite
from ..operators.stacks import ProductSpace, Selection
from ..operators.subsets import subsets as in_subsets
from .composite import Composite, _total

__all__ = ["Reconstruction"]


class Reconstruction(Composite):
    """min_x f(A x) + R(x) + C(x): an image x from data b = A x + noise.

    Parameters
    ----------
    operator : A, a LinearOperator (MRI, PET, RayTransform, Convolution, ...). A tensor `operator.background` holds expected counts r beside A x (randoms, scatter).
    data : b, (..., *A.range.shape); leading axes are slices or frames, solved at once, each with its own image. Complex where A's range is.
    fidelity : "gaussian", f(z) = |(z - b) / s|^2 / 2; "poisson", f(z) = sum (z + r) - b + b log(b / (z + r)), b counts >= 0; or a Functional h of the residual, f(z) = h(z - b).
    regulariser : R, a Functional with its weight, such as 2e-3 * TotalVariation(), a sum of several, or None.
    constraint : C, "nonnegative" (complex images: real and nonnegative), "real" (complex images: no imaginary part), an indicator, or None, which is "nonnegative" with "poisson".
    standard_deviation : s of the Gaussian noise, a number or a tensor that broadcasts to A's range; 1 by default.
    start : image to begin with; by default 0, with "poisson" the uniform image that has the counts' sum.

    Every solver takes it, in the form that suits: FISTA, PGD and DouglasRachford have R and C by their joint prox, exact or certified by a duality gap (`DualProx`);
    PDHG, ADMM and SPDHG have R in terms H(K x), and A too where f has no Lipschitz gradient; MLEM and OSEM visit the counts in subsets. `result.solution` is the
    image, `result.show(reference=...)` draws it.
    Raises TypeError / ValueError, before any work, where shapes or kinds do not fit, data hold NaN, counts are negative, or are positive where every image gives 0 expected ones.
    """

    def __init__(self, operator: LinearOperator, data: torch.Tensor, fidelity: str | Functional = "gaussian", regulariser: Functional | None = None,
                 constraint: str | Functional | None = None, standard_deviation: Quantity | None = None, start: torch.Tensor | None = None):
        if not isinstance(operator, Operator) or not operator.is_linear:
            raise TypeError(f"Reconstruction got {operator!r} as its operator; it needs a LinearOperator (MatrixOperator(m) makes one of a matrix).")
        self._given = {"operator": operator, "data": data, "fidelity": fidelity, "constraint": constraint, "standard_deviation": standard_deviation}
        self.operator, self.data, self.fidelity, self.standard_deviation = operator, _data(operator, data), fidelity, standard_deviation
        dtype = self.data.dtype.to_complex() if operator.domain.dtype.is_complex else self.data.dtype.to_real()
        self.space = Space(operator.domain.shape, dtype, self.data.device)
        batch = self.data.shape[:self.data.dim() - operator.range.ndim]
        self._f, self._A = self._data_term(standard_deviation)
        self.regulariser = self._on_images(regulariser, "regulariser")
        self.constraint = self._constraint(constraint)
        if start is None:
            start = self._uniform(batch) if fidelity == "poisson" else self.space.zero(*batch)
        elif not torch.is_tensor(start) or tuple(start.shape) != (*batch, *self.space.shape):
            raise ValueError(f"Reconstruction got a start of shape {tuple(getattr(start, 'shape', ()))}; the image of these data has the shape {(*batch, *self.space.shape)}.")
        elif start.is_complex() and not dtype.is_complex:
            raise TypeError(f"Reconstruction got a start of dtype {start.dtype} for real images; pass a real one.")
        self._image_start, self._product = start.to(dtype), None
        self._arrange(1, True)

    # ---- parts
    def _data_term(self, deviation):
        """(f, A) with the data in f."""
        f, A, b = self.fidelity, self.operator, self.data
        if deviation is not None and f != "gaussian":
            raise ValueError(f"Reconstruction got a standard_deviation with fidelity={f!r}; it belongs to 'gaussian'.")
        if f == "gaussian":
            if deviation is None:
                return 0.5 * L2NormSquared().translated(b), A
            s = torch.as_tensor(deviation, dtype=b.dtype.to_real(), device=b.device)
            if not (all_finite(s) and (s > 0).all()):
                raise ValueError("Reconstruction got a standard_deviation that is not > 0 and finite; leave out data that were not measured by the operator's mask.")
            if s.dim() == 0:
                return 0.5 / float(s) ** 2 * L2NormSquared().translated(b), A
            try:
                w = (1 / s).expand(A.range.shape)
            except RuntimeError:
                raise ValueError(f"Reconstruction got a standard_deviation of shape {tuple(s.shape)}; it needs one that broadcasts to {A.range.shape}.") from None
            return 0.5 * L2NormSquared().translated(w * b), DiagonalOperator(w) @ A
        if f == "poisson":
            return self._poisson()
        if not isinstance(f, Functional):
            raise ValueError(f"Reconstruction got fidelity={f!r}; choose 'gaussian', 'poisson' or pass a Functional of the residual A x - data.")
        return f.on(A.range).translated(b), A

    def _poisson(self):
        A, b = self.operator, self.data
        if self.space.dtype.is_complex or b.is_complex():
            raise TypeError(f"Reconstruction got fidelity='poisson' with {A!r} of dtype {A.range.dtype}; counts and images are real: use 'gaussian'.")
        if getattr(A, "events", False):
            raise ValueError(f"Reconstruction got {A!r} with one line per event, whose likelihood needs the sensitivity image of the whole scan: "
                             "pass the operator of the sinogram and histogram(events, scanner) as data, or iterate as PET.list_mode says.")
        expected = A._call(torch.ones(self.space.shape, dtype=b.dtype, device=b.device))
        if (expected < -1e-6 * expected.max()).any():
            raise ValueError(f"Reconstruction got fidelity='poisson' with {A!r}, which makes negative counts of the image that is 1 everywhere; it needs an operator that keeps "
                             "images >= 0 nonnegative.")
        r = _background(A)
        if r is not None:
            r = finite(r, "Reconstruction", "background")
            if (r < 0).any():
                raise ValueError("Reconstruction got an operator whose background has negative expected counts; they need to be >= 0.")
            if not A.range.fits(r):
                raise ValueError(f"Reconstruction got an operator whose background has the shape {tuple(r.shape)}; it needs that of its range, {A.range.shape}.")
            expected, r = expected + r, r.expand_as(b)
        lost = (expected <= 10 * torch.finfo(b.dtype).eps * expected.max()) & (b > 0)
        if lost.any():
            raise ValueError(f"{int(lost.sum())} data have counts where the operator's row and the background are 0, so no image explains them: "
                             "pass a background > 0, or set these counts to 0.")
        return KullbackLeibler(b, A.range, r), A

    def _uniform(self, batch):
        ones = torch.ones(self.space.shape, dtype=self.space.dtype, device=self.space.device)
        expected, r = self.operator._call(ones), _background(self.operator)
        axes = tuple(range(-self.operator.range.ndim, 0))
        net = (self.data if r is None else (self.data - r).clamp(min=0)).sum(axes)
        level = (net / expected.sum().clamp(min=torch.finfo(ones.dtype).tiny)).clamp(min=1e-6 * float(net.max().clamp(min=1e-6)) / max(float(expected.sum()), 1e-6))
        return level.reshape(*batch, *(1,) * self.space.ndim) * ones

    def _on_images(self, f, name):
        if f is None:
            return None
        if not isinstance(f, Functional):
            raise TypeError(f"Reconstruction got {f!r} as its {name}; it needs a Functional, such as 2e-3 * TotalVariation().")
        if f.space is not None and f.space.shape != self.space.shape:
            raise ValueError(f"Reconstruction got {f!r} as its {name}; the image has the shape {self.space.shape}.")
        return f.on(self.space)

    def _constraint(self, given):
        complex_image = self.space.dtype.is_complex
        if given is None:
            return IndicatorNonnegative(self.space) if self.fidelity == "poisson" else None
        if given == "nonnegative":
            return IndicatorReal(True, self.space) if complex_image else IndicatorNonnegative(self.space)
        if given == "real":
            if not complex_image:
                raise ValueError("Reconstruction got constraint='real' for an image that is real anyway; leave it out, or use 'nonnegative'.")
            return IndicatorReal(False, self.space)
        if isinstance(given, str):
            raise ValueError(f"Reconstruction got constraint={given!r}; choose 'nonnegative', 'real' or pass an indicator.")
        C = self._on_images(given, "constraint")
        if not C.has_prox:
            raise TypeError(f"Reconstruction got {C!r} as its constraint; it needs a functional with a prox, such as IndicatorBox(0, 1).")
        return C

    # ---- forms
    def split_form(self, subsets=1, explicit=True):
        return self if subsets == 1 and explicit else copy.copy(self)._arrange(subsets, explicit)

    def _arrange(self, subsets, explicit):
        """This object with the regulariser in terms H(K x), and the data term as F (`explicit`, where its gradient has a Lipschitz bound) or in terms f(A x)."""
        f, A, R, C, space, start = self._f, self._A, self.regulariser, self.constraint, self.space, self._image_start
        smooth, G, terms, more = None, C, [], []
        if R is not None:
            try:
                more = R.split(space)
            except TypeError:
                if not (R.smooth and explicit):
                    raise
                smooth = R
        own = () if R is None else R.auxiliary(space)
        if own:
            self._product = ProductSpace(space, *own)
            pick, batch = Selection(self._product, 0), start.shape[:start.dim() - space.ndim]
            A, start = A @ pick, self._product.join(start, *(w.zero(*batch) for w in own))
            more, G = more if C is None else [*more, C @ pick], None
        else:
            taken, more = more, []
            for t in taken:
                g = (t.f if isinstance(t.op, IdentityOperator) else t) if t.op.unitary else None
                joint = None if g is None else g if G is None else self._joint(g, G)
                G, more = (joint, more) if joint is not None else (G, [*more, t])
        if explicit and f.smooth and subsets == 1:
            smooth = f @ A if smooth is None else f @ A + smooth
        else:
            terms = in_subsets(f @ A, subsets) if subsets > 1 else [f @ A]
        Composite.__init__(self, smooth, G, [*terms, *more], start)
        self._data_terms = len(terms)
        self.probabilities = [0.5 / len(terms)] * len(terms) + [0.5 / len(more)] * len(more) if terms and more else None
        return self

    def prox_form(self, subsets=1):
        """F + G: the data term (and a smooth regulariser without a prox) as F, R + C as G with one prox."""
        R, C = self.regulariser, self.constraint
        if not self._f.differentiable:
            raise TypeError(f"the data term {self._f!r} has no gradient, which methods for F + G need; use PDHG, ADMM or SPDHG, which take its prox.")
        data = smooth = self._f @ self._A
        if R is None:
            G = C
        elif R.smooth and not R.has_prox:
            smooth, G = smooth + R, C
        elif C is None and R.has_prox:
            G = R
        else:
            G = (self._joint(R, C) if C is not None and R.has_prox else None) or DualProx(R, C, self.space)
        new = copy.copy(self)
        Composite.__init__(new, smooth, G, None, self._image_start)
        new._product, new.probabilities, new._data_terms = None, None, 0
        new.subsets = tuple(in_subsets(data, subsets)) if subsets > 1 else (new.smooth_part,)
        return new

    def _joint(self, f, g):
        """f + g by one prox after the other, where that is exact and tested; None elsewhere."""
        if self.space.dtype.is_complex or not (f.separable and g.separable):
            return None
        try:
            return JointProx(f, g)
        except ValueError:
            return None

    @checked
    def reweighted(self, weight: float, start: torch.Tensor | None = None) -> "Reconstruction":
        """The same problem with `weight` times its regulariser, and another start."""
        if self.regulariser is None:
            raise ValueError("this Reconstruction has no regulariser to weight; pass regulariser=TotalVariation(), for instance.")
        return Reconstruction(regulariser=weight * self.regulariser, start=start, **self._given)  # type: ignore[arg-type]

    # ---- what follows
    def finish(self, point):
        return point["x"] if self._product is None else self._product.split(point["x"])[0]

    def misfit(self, image: torch.Tensor) -> torch.Tensor:
        """f(A x), summed over all images: |A x - b|^2 / (2 s^2), or the divergence of the counts from those that are expected."""
        return _total(self._f(self._A(image)))

    def predicted(self, image: torch.Tensor) -> torch.Tensor:
        """What the data would be without noise: A x, plus the background."""
        r = _background(self.operator)
        return self.operator(image) if r is None else self.operator(image) + r

    def gap(self, point, dual=()):
        """Primal-dual gap, an upper bound on E(point) - min E.

        Under "nonnegative" the duals are first moved until A* y + sum K* z >= 0: Poisson (y, z) towards (1, 0), Gaussian y along 1; that needs A* 1 > 0. Otherwise, as in
        `Composite`, finite where the constraint bounds the image (IndicatorBox, IndicatorLinfBall) or the dual is feasible.
        """
        pairs = [(H, K, y) for (H, K), y in zip(self.linear, dual, strict=True)]
        count, F = self._data_terms, self.smooth_part
        if not isinstance(self.nonsmooth_part, IndicatorNonnegative) or self.fidelity not in ("poisson", "gaussian") or self._product is not None:
            return super().gap(point, dual)
        if not count:
            if not hasattr(F, "op"):
                return super().gap(point, dual)
            pairs, count = [(F.f, F.op, F.f._gradient(F.op._call(point["x"]))), *pairs], 1
        poisson = self.fidelity == "poisson"
        if poisson:                                      # y <= 1 holds up to rounding
            pairs = [(H, K, y.clamp(max=1)) for H, K, y in pairs[:count]] + pairs[count:]
        q = sum(K._adjoint(y) for _, K, y in pairs)
        seen = sum(K._adjoint(torch.ones_like(y)) for _, K, y in pairs[:count])
        short = torch.where(q < 0, -q / ((seen - q) if poisson else seen), 0.0).clamp(min=0)
        s = float(short.max()) * (1 + 4 * torch.finfo(q.dtype).eps)
        if not s < (1 if poisson else inf):
            return torch.full_like(q.sum(), inf)
        moved = [(H, y + s * (1 - y) if poisson else y + s) for H, _, y in pairs[:count]] + [(H, (1 - s) * z if poisson else z) for H, _, z in pairs[count:]]
        return self.value(point) + sum(_total(H._conj_value(y)) for H, y in moved)

    def __repr__(self):
        parts = [f"{self.fidelity if isinstance(self.fidelity, str) else repr(self.fidelity)} data {tuple(self.data.shape)}", repr(self.operator),
                 *(repr(f) for f in (self.regulariser, self.constraint) if f is not None)]
        return f"Reconstruction({'; '.join(parts)})"


def _background(operator):
    """The expected counts beside A x: those of `operator`, or of A in A @ K; ValueError where another product or sum has lost them."""
    r, parts = getattr(operator, "background", None), [vars(operator)[name] for name in ("left", "right", "op") if isinstance(vars(operator).get(name), Operator)]
    if r is not None or not parts:
        return r
    r = _background(parts[0]) if isinstance(operator, _Composition) else None
    if r is None and any(_background(part) is not None for part in parts):
        raise ValueError(f"Reconstruction got {operator!r}, made of an operator with a background, which counts beside A x alone: set the product's own, "
                         "op.background = ..., or scale the sensitivity instead.")
    return r


def _data(operator, data):
    """The data, refused where shape or kind differ from the operator's range."""
    data = finite(data, "Reconstruction", "data tensor")
    if not operator.range.fits(data):
        raise ValueError(f"Reconstruction got data of shape {tuple(data.shape)}; the operator's range needs trailing axes {operator.range.shape}.")
    if data.is_complex() != operator.range.dtype.is_complex:
        kinds = ("complex", "real") if data.is_complex() else ("real", "complex")
        raise TypeError(f"Reconstruction got {kinds[0]} data for {operator!r}, whose range is {kinds[1]}; nothing is cast: pass data of dtype {operator.range.dtype}.")
    return data
