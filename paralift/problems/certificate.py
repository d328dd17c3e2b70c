"""`Certificate`: what is proved about a source element, and nothing that was not computed."""

from dataclasses import dataclass

import torch

from ..arguments import Quantity, checked, shown
from ..operators.functional import Functional
from ..operators.functional_algebra import _Composed, _Scaled, _Sum, _Translated
from ..operators.indicators import IndicatorBox, IndicatorNonnegative
from ..operators.norms import GroupL1Norm, L1Norm, L2Norm, WeightedL1Norm
from ..operators.space import inner

__all__ = ["Certificate", "certain_subgradient", "nearest_subgradient"]


@checked
def nearest_subgradient(f: Functional, z: torch.Tensor, q: torch.Tensor, tolerance: float = 1e-12) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(p, gap) with f(y) >= f(z) + <p, y - z> - gap for all y: the element p of df(z) nearest to q, in closed form, for f differentiable, an l1, l2 or group norm, a box, a
    multiple, translate or sum with a known one; elsewhere `certain_subgradient`. Norms take entries of z below `tolerance` times the largest for 0; that shows in the gap, which
    is 0 where p is in df(z), up to rounding. ValueError where z or q is no element of f, or their batch axes do not broadcast."""
    _check("nearest_subgradient", f, z, q)
    if f.smooth and f.differentiable:
        return f.gradient(z), _nothing(f, z)
    if isinstance(f, _Scaled) and not f.a:
        return torch.zeros_like(q), _nothing(f, z)
    if isinstance(f, _Scaled):
        return _times(nearest_subgradient(f.f, z, q / f.a, tolerance), lambda p, gap: (f.a * p, f.a * gap))
    if isinstance(f, _Translated):
        return nearest_subgradient(f.f, z - f.shift, q, tolerance)
    if isinstance(f, _Sum):
        smooth, other = (f.f, f.g) if f.f.smooth else (f.g, f.f)
        slope = smooth.gradient(z) if smooth.smooth else None
        return None if slope is None else _times(nearest_subgradient(other, z, q - slope, tolerance), lambda p, gap: (p + slope, gap))
    if isinstance(f, _Composed):
        return _times(nearest_subgradient(f.f, f.op(z), f.op(q), tolerance), lambda p, gap: (f.op.adjoint(p), gap)) if f.op.is_linear and f.op.unitary else None
    if isinstance(f, (L1Norm, GroupL1Norm, WeightedL1Norm, L2Norm)):
        size = z.abs() if isinstance(f, (L1Norm, WeightedL1Norm)) else f._size(z) if isinstance(f, GroupL1Norm) else _over(f._value(z), f.ndim)
        weights = f.weights if isinstance(f, WeightedL1Norm) else 1.0
        long = size > tolerance * size.amax(tuple(range(-f.ndim, 0)), keepdim=True)
        p = torch.where(long, weights * z / torch.where(long, size, 1), f._dual_ball(q, 1.0))
        return p, (f._value(z) - inner(p, z, f.ndim)).clamp(min=0)
    if isinstance(f, (IndicatorNonnegative, IndicatorBox)):
        low, high = (0.0, torch.inf) if isinstance(f, IndicatorNonnegative) else (f.lower, f.upper)
        p = torch.where(z <= low, q.clamp(max=0), 0) + torch.where(z >= high, q.clamp(min=0), 0)
        return p, _nothing(f, z)
    return certain_subgradient(f, z, q)


def _check(who, f, z, q):
    f._fit(z), f._fit(q)
    if q.dtype != z.dtype or any(a != b and 1 not in (a, b) for a, b in zip(reversed(q.shape), reversed(z.shape))):
        raise ValueError(f"{who} got z={shown(z)} and q={shown(q)}; it needs elements of one dtype whose batch axes broadcast.")


def _times(found, change):
    return None if found is None else change(*found)


def _over(value, ndim):
    """A value of the batch's shape, to broadcast against elements."""
    return value.reshape(*value.shape, *[1] * ndim)


def _nothing(f, z):
    """0, of the batch's shape."""
    return z.real.new_zeros(z.shape[:z.dim() - f.ndim])


@checked
def certain_subgradient(f: Functional, z: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(p, gap), p = q where f*(q) is finite, for norms q cut to the dual unit ball, and gap = f(z) + f*(p) - <p, z>, Fenchel's, so that f(y) >= f(z) + <p, y - z> - gap for all y;
    None where f* is not known. ValueError where z or q is no element of f, or their batch axes do not broadcast."""
    _check("certain_subgradient", f, z, q)
    if f.smooth and f.differentiable:
        return f.gradient(z), _nothing(f, z)
    try:
        if f.positive_homogeneous:
            p, conj = q / _over(f._polar(q).clamp(min=1), f.ndim), 0.0
        else:
            p, conj = q, f._conj_value(q)
    except NotImplementedError:
        return None
    return p, (f._value(z) + conj - inner(p, z, f.ndim)).clamp(min=0)


@dataclass
class Certificate:
    """A source element v of an image u, image by image (tensors of the batch's shape).

    norm : |v|, which decides how fast errors fall.
    distance, gap : K* v is at most `distance` from a p with J(y) >= J(u) + <p, y - u> - gap for all y: p = A* q, q the element of dH(A u + b) nearest to what the solver
        found. The gap is 0 up to rounding where these are known in closed form, so that p is in dJ(u); elsewhere (a nuclear norm, TGV, which minimises over unknowns of its own)
        it is Fenchel's, of a q made feasible. Both None where neither is known: then nothing is proved.
    prox_residual : |prox(x + q) - x|, a LOWER bound of the distance of q to dH(x), x = A u + b (without A: of K* v to dJ(u)). It proves nothing by being small.
    element, subgradient : v, and the q of `distance` (a list, one for each term of J).
    """

    norm: torch.Tensor
    distance: torch.Tensor | None
    gap: torch.Tensor | None
    prox_residual: torch.Tensor
    element: torch.Tensor
    subgradient: list

    @checked
    def rate(self, delta: Quantity) -> torch.Tensor:
        """|v| delta, which bounds the symmetric Bregman distance of u_alpha to u for noise of norm delta and alpha = `weight(delta)`, if distance and gap are 0."""
        return self.norm * delta

    @checked
    def weight(self, delta: Quantity) -> torch.Tensor:
        """alpha = delta / |v|, which makes alpha |v|^2 / 2 + delta^2 / (2 alpha) least."""
        return delta / self.norm

    def __repr__(self):
        show = lambda v: ", ".join(f"{a:.6g}" for a in v.reshape(-1)[:6].tolist()) + (", ..." if v.numel() > 6 else "")
        lines = [f"  |v|                                       {show(self.norm)}",
                 "  distance of K* v to dJ(u)                 " + ("not computed: no subgradient of J is known" if self.distance is None
                                                                  else f"at most {show(self.distance)}, up to a gap of {show(self.gap)}"),
                 f"  prox residual (a lower bound, no proof)   {show(self.prox_residual)}"]
        return "Certificate\n" + "\n".join(lines)
