"""Public checks of operators, functionals, penalties and problems: they print a table and raise `CheckFailed`."""

import copy

import torch

from .operators.functional import Functional
from .operators.operator import Operator
from .operators.penalties import Penalty
from .operators.space import inner
from .problems.problem import Problem

__all__ = ["CheckFailed", "check_operator", "check_functional", "check_penalty", "check_problem"]


class CheckFailed(AssertionError):
    """A mathematical property does not hold; the text is the table of the checks."""


class _Table:
    def __init__(self, subject):
        self.subject, self.rows = subject, []

    def add(self, name, error, tolerance):
        self.rows.append((name, float(error), tolerance))

    def close(self):
        text = f"{self.subject}\n" + "\n".join(f"  {'ok  ' if e <= t else 'FAIL'}  {n:<52} {e:10.2e}  (at most {t:.0e})" for n, e, t in self.rows)
        print(text)
        if not self.rows:
            raise CheckFailed(f"{self.subject}: nothing could be checked; give the class a _prox (and _value), or a _gradient.")
        if any(not e <= t for _, e, t in self.rows):
            raise CheckFailed(text)


def _points(f, points, seed):
    g = torch.Generator().manual_seed(seed)
    if points is not None:
        return points.to(torch.float64) if not points.is_complex() else points
    space = getattr(f, "space", None)
    shape, device = ((7,) + (5,) * (f.ndim - 1), "cpu") if space is None else (space.shape, space.device)
    return 2 * torch.randn(6, *shape, dtype=torch.float64, generator=g).to(device)


def _noise(like, generator):
    """Normal numbers like a tensor, drawn on the CPU: the same ones on every device."""
    return torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)


def check_operator(op: Operator, tolerance: float = 1e-8, seed: int = 0) -> None:
    """<Ax, y> = <x, A*y> for linear operators; the derivative against finite differences, and its adjoint, for all."""
    table = _Table(repr(op))
    g = torch.Generator().manual_seed(seed)
    x, dx, y = op.domain.randn(generator=g), op.domain.randn(generator=g), op.range.randn(generator=g)
    tolerance = max(tolerance, 1e3 * torch.finfo(op.domain.dtype).eps)
    D = op.derivative(x)
    left, right = inner(D(dx), y), inner(dx, D.adjoint(y))
    table.add("adjoint: <Ax, y> = <x, A*y>", (left - right).abs() / (D(dx).norm() * y.norm() + 1e-30), tolerance)
    h = torch.finfo(op.domain.dtype).eps ** (1 / 3)
    fd = (op(x + h * dx) - op(x - h * dx)) / (2 * h)
    table.add("derivative against finite differences", (fd - D(dx)).norm() / (fd.norm() + 1e-30), max(1e-6, 10 * h))
    two = op(torch.stack([x, dx]))
    table.add("batch = loop", (two - torch.stack([op(x), op(dx)])).norm() / (two.norm() + 1e-30), tolerance)
    table.close()


def check_functional(f: Functional, points: torch.Tensor | None = None, tolerance: float = 1e-6, seed: int = 0) -> None:
    """Prox optimality, Moreau, firm non-expansiveness, gradient, Fenchel-Young, batch = loop.

    `points` (batch, ...) float64 where the functional needs special ones (positive, complex).
    """
    x = _points(f, points, seed)
    table, g = _Table(repr(f)), torch.Generator().manual_seed(seed + 1)
    noise = lambda like: _noise(like, g)
    if f.has_prox:
        for s in (0.3, 1.0) if not f.convex else (0.3, 1.0, 2.5):
            p = f.prox(x, s)
            best = f(p) + inner(p - x, p - x, f.ndim) / (2 * s)
            table.add(f"prox({s}) is feasible", 0 if torch.isfinite(f(p)).all() else 1, 0)
            worst = best.new_zeros(())
            for scale in (1e-4, 1e-2, 1.0):
                for other in [f.prox(x + scale * noise(x), s) for _ in range(10)] + [p + scale * noise(p)]:
                    value = f(other) + inner(other - x, other - x, f.ndim) / (2 * s)
                    worst = torch.maximum(worst, (best - value).max())
            table.add(f"prox({s}) minimises", worst / (1 + best.abs().max()), tolerance)
            if f.convex:
                q = x + noise(x)
                d, e = f.prox(q, s) - p, q - x
                table.add(f"prox({s}) firmly non-expansive", (inner(d, d, f.ndim) - inner(d, e, f.ndim)).max().clamp(min=0), tolerance)
                moreau = p + s * f.convex_conj.prox(x / s, 1 / s)
                table.add(f"Moreau ({s})", (moreau - x).abs().max(), tolerance)
                try:
                    v = (x - p) / s
                    young = f(p) + f.convex_conj(v * (1 - 1e-9)) - inner(p, v, f.ndim)
                    table.add(f"Fenchel-Young ({s})", young.abs().max(), 10 * tolerance)
                except NotImplementedError:
                    pass
        loop = torch.stack([f.prox(xi, 0.7) for xi in x])
        table.add("batch = loop", (f.prox(x, 0.7) - loop).abs().max(), tolerance)
        per_sample = torch.linspace(0.3, 1.0, len(x), dtype=torch.float64, device=x.device).reshape(-1, *[1] * (x.dim() - 1))
        each = torch.stack([f.prox(xi, float(si)) for xi, si in zip(x, per_sample.flatten())])
        table.add("sigma per sample", (f.prox(x, per_sample) - each).abs().max(), tolerance)
    try:
        f.gradient(x)
        differentiable = True
    except NotImplementedError:
        differentiable = False
    if differentiable:
        u = f.prox(0.3 * x, 2.0 if f.convex else 1.0) if f.has_prox else x
        d, h = noise(u), 1e-6
        fd = (f(u + h * d) - f(u - h * d)) / (2 * h)
        slope = inner(f.gradient(u), d, f.ndim)
        finite = torch.isfinite(fd) & torch.isfinite(slope)
        table.add("gradient against finite differences", ((fd - slope).abs() / (1 + slope.abs()))[finite].max() if finite.any() else 1, 1e-4)
        if f.smooth:
            v = u + noise(u)
            lhs, rhs = (f.gradient(v) - f.gradient(u)).abs().square(), (v - u).abs().square()
            table.add("grad_lipschitz holds", (lhs.sum().sqrt() - f.grad_lipschitz * rhs.sum().sqrt()).clamp(min=0), 1e-9)
    table.close()


def check_penalty(penalty: Penalty, points: torch.Tensor | None = None, tolerance: float = 1e-6, seed: int = 0) -> None:
    """Value at consistency, P >= 0 and the lower bound of B, dP/dz against finite differences and its slope, dP/dx, prox_x optimality, a backward sweep."""
    from .operators.penalties import LiftedBregman

    z = _points(penalty.potential, points, seed)
    g = torch.Generator().manual_seed(seed + 1)
    noise = lambda like: _noise(like, g)
    table, n = _Table(repr(penalty)), penalty.ndim
    sigma = penalty.activation
    feasible = lambda u: u if torch.isfinite(penalty(u, z)).all() else penalty.nonsmooth.prox(u, 1.0)
    x = feasible(sigma(z + noise(z)))
    if penalty.zero_at_consistency:
        table.add("P(sigma(z), z) = 0", penalty(sigma(z), z).abs().max(), 1e-10)
        table.add("P >= 0", (-penalty(x, z)).max().clamp(min=0), 1e-10)
    if isinstance(penalty, LiftedBregman):
        d = x - sigma(z)
        table.add("B >= |x - sigma(z)|^2 / 2", (0.5 * inner(d, d, n) - penalty(x, z)).max().clamp(min=0), 1e-9)
    d, h = noise(z), 1e-6
    fd = (penalty(x, z + h * d) - penalty(x, z - h * d)) / (2 * h)
    table.add("dP/dz against finite differences", ((fd - inner(penalty.gradient_z(x, z), d, n)).abs() / (1 + fd.abs())).max(), 1e-5)
    if penalty.zero_at_consistency and hasattr(penalty, "_minimiser"):
        table.add("sigma(z) minimises P(., z)", (penalty._minimiser(penalty._target(z).clone()) - sigma(z)).abs().max(), tolerance)  # type: ignore[attr-defined]
    if penalty.majorised:
        other = z + noise(z)
        change, move = penalty.gradient_z(x, other) - penalty.gradient_z(x, z), other - z
        size = lambda a: inner(a, a, n).sqrt()
        table.add(f"slope of dP/dz at most {penalty.lipschitz_z:g}", (size(change) / size(move)).max() - penalty.lipschitz_z, 1e-9)
    y = feasible(sigma(z + noise(z)))
    # between x and y, so inside the domain of N; P - N is often quadratic, then any h will do
    N, middle, h = penalty.nonsmooth, 0.5 * (x + y), 1e-4
    smooth = lambda u: penalty(u, z) - N(u)
    fd = (smooth(middle + h * (x - y)) - smooth(middle - h * (x - y))) / (2 * h)
    table.add("gradient_x is that of P - N", ((fd - inner(penalty.gradient_x(middle, z), x - y, n)).abs() / (1 + fd.abs())).max(), 1e-6)
    table.add("_smooth_value is P - N", (penalty._smooth_value(x, z) - smooth(x)).abs().max(), 1e-9)
    table.add("_gradient_z_at is gradient_z", (penalty._gradient_z_at(x.clone(), z, sigma(z)) - penalty.gradient_z(x, z)).abs().max(), 1e-10)
    p, r = sigma(z), noise(z)
    swept = penalty._sweep_x(z, p, r)
    table.add("a backward sweep lowers P + <g, .>", (penalty(swept, z) + inner(r, swept, n) - penalty(p, z) - inner(r, p, n)).max().clamp(min=0), 1e-9)
    for tau in (0.2, 1.0, 5.0):
        v = z + noise(z)
        p = penalty.prox_x(v, z, tau)
        best = inner(p - v, p - v, n) / 2 + tau * penalty(p, z)
        worst = best.new_zeros(())
        for scale in (1e-3, 1e-1, 1.0):
            for other in [penalty.prox_x(v + scale * noise(v), z, tau) for _ in range(10)] + [p + scale * noise(p)]:
                worst = torch.maximum(worst, (best - inner(other - v, other - v, n) / 2 - tau * penalty(other, z)).max())
        table.add(f"prox_x({tau}) minimises", worst / (1 + best.abs().max()), tolerance)
    table.close()


def check_problem(problem: Problem, point: dict[str, torch.Tensor] | None = None, tolerance: float = 1e-6, seed: int = 0, perturb: float = 0.3) -> None:
    """The gradient of F against finite differences, every block apart, at a point off consistency; float64 problems only."""
    g = torch.Generator().manual_seed(seed)
    table = _Table(type(problem).__name__)
    point = copy.copy(problem.start() if point is None else point)
    if any(v.dtype != torch.float64 for v in point.values()):
        raise TypeError(f"check_problem got blocks of dtype {next(iter(point.values())).dtype}; it needs float64: convert the network and the data with .double().")
    point = {k: v + perturb * torch.rand(v.shape, dtype=v.dtype, generator=g).to(v.device) * v.abs().mean() for k, v in point.items()}
    point = {**point, **problem.prox(point, {k: 1e-12 for k in point})}
    lin = problem.linearise(point)
    for name, gradient in lin.gradient.items():
        d, h = _noise(gradient, g), 1e-6
        move = lambda t: {**point, name: point[name] + t * d}
        F = problem.smooth_value
        fd = (F(move(h)) - F(move(-h))) / (2 * h)
        slope = torch.sum(gradient * d)
        table.add(f"gradient of {name}", (fd - slope).abs() / (fd.abs() + 1e-3 * (1 + lin.value.abs())), tolerance)
    table.close()
