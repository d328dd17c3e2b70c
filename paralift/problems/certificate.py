"""`Certificate`: what is proved about a source element, and nothing that was not computed."""

from dataclasses import dataclass

import torch

from ..arguments import checked
from ..operators.functional import Functional
from ..operators.functional_algebra import _Composed, _Scaled, _Sum, _Translated
from ..operators.norms import GroupL1Norm, L1Norm, ZeroFunctional

__all__ = ["Certificate", "project_subdifferential"]


@checked
def project_subdifferential(f, z, q):
    """The element of df(z) nearest to q, in closed form, or None where none is known: f differentiable, an l1 or group norm, a multiple, translate or sum with a known one."""
    if isinstance(f, _Scaled):
        p = project_subdifferential(f.f, z, q / f.a) if f.a else torch.zeros_like(q)
        return p if p is None or not f.a else f.a * p
    if isinstance(f, _Translated):
        return project_subdifferential(f.f, z - f.shift, q)
    if isinstance(f, _Sum):
        smooth, other = (f.f, f.g) if f.f.smooth else (f.g, f.f)
        if not smooth.smooth:
            return None
        p = project_subdifferential(other, z, q - smooth.gradient(z))
        return p if p is None else p + smooth.gradient(z)
    if isinstance(f, _Composed):
        p = project_subdifferential(f.f, f.op(z), f.op(q)) if f.op.is_linear and f.op.unitary else None
        return f.gradient(z) if f.smooth else p if p is None else f.op.adjoint(p)
    if isinstance(f, (L1Norm, GroupL1Norm)):
        size = lambda x: x.abs() if isinstance(f, L1Norm) else f._size(x)
        long = size(z)
        return torch.where(long > 0, z / torch.where(long > 0, long, 1), q / size(q).clamp(min=1))
    if isinstance(f, ZeroFunctional) or f.smooth and type(f)._gradient is not Functional._gradient:
        return f.gradient(z)
    return None


@dataclass
class Certificate:
    """A source element v of an image u, image by image (tensors of the batch's shape).

    norm : |v|, which decides how fast errors fall.
    distance : an upper bound of the distance of K* v to dJ(u): |K* v - A* q| with a q that lies in dH(A u + b), the nearest one to what the solver found; without A the
        distance itself. None where the projection onto the subdifferential is not known in closed form: then nothing is proved.
    prox_residual : |prox(x + q) - x|, a LOWER bound of the distance of q to dH(x), x = A u + b (without A: of K* v to dJ(u)). It proves nothing by being small.
    element, subgradient : v, and the q of `distance` (a list, one for each term of J).
    """

    norm: torch.Tensor
    distance: torch.Tensor
    prox_residual: torch.Tensor
    element: torch.Tensor
    subgradient: list

    def rate(self, delta):
        """|v| delta, which bounds the symmetric Bregman distance of u_alpha to u for noise of norm delta and alpha = `weight(delta)`, if distance is 0."""
        return self.norm * delta

    def weight(self, delta):
        """alpha = delta / |v|, which makes alpha |v|^2 / 2 + delta^2 / (2 alpha) least."""
        return delta / self.norm

    def __repr__(self):
        show = lambda v: ", ".join(f"{a:.6g}" for a in v.reshape(-1)[:6].tolist()) + (", ..." if v.numel() > 6 else "")
        lines = [f"  |v|                                       {show(self.norm)}",
                 "  distance of K* v to dJ(u)                 " + ("not computed: no closed projection onto dH is known" if self.distance is None
                                                                  else f"at most {show(self.distance)}"),
                 f"  prox residual (a lower bound, no proof)   {show(self.prox_residual)}"]
        return "Certificate\n" + "\n".join(lines)
