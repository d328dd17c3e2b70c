"""What a success must satisfy: no NaN from finite numbers, the same result for other memory layouts and in double precision, the adjoint identity, a prox that is a minimiser."""

import numpy as np
import torch
from calls import randn

import paralift as pl

SHAPES = {0: (), 1: (5,), 2: (4, 6), 3: (2, 4, 6)}


def solvable(solver):
    """A problem that suits a method."""
    A, b = randn(6, 4), randn(6)
    if isinstance(solver, (pl.MLEM, pl.OSEM)):
        return pl.Reconstruction(pl.MatrixOperator(A.abs()), (5 * b.abs()).round(), "poisson")
    if isinstance(solver, pl.solvers.stochastic.Stochastic):
        return pl.linear_model(A, b)
    if isinstance(solver, pl.ISGM):
        return pl.LiftedTraining(pl.networks.MLP(4, 3, 2), A.float(), randn(6, 2).float(), "squared_error")
    F = pl.LeastSquares(A, b)
    if isinstance(solver, (pl.PDHG, pl.SPDHG, pl.ADMM)):
        return pl.Composite(None, 0.1 * pl.L1Norm(), F.f @ F.op)
    if isinstance(solver, pl.BregmanPGD):
        return pl.Composite(F, pl.IndicatorNonnegative(), start=torch.ones(4, dtype=torch.float64))
    return pl.Composite(F, None if isinstance(solver, (pl.LBFGS, pl.ConjugateGradient)) else 0.1 * pl.L1Norm())


class Wrong(Exception):
    """A success that an oracle refutes."""


def tensors(value):
    if torch.is_tensor(value):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in tensors(v)] if isinstance(value, (tuple, list)) else []


def tame(value):
    """Finite numbers of ordinary size throughout."""
    numbers = [t for t in tensors(value) if t.is_floating_point() or t.is_complex()]
    plain = [v for v in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(v, (int, float))]
    return all(t.device.type != "meta" and (not t.numel() or bool((t.detach().abs() < 1e12).all())) for t in numbers) and all(-1e12 < v < 1e12 for v in plain)


def has_nan(value):
    return any(bool(torch.isnan(t.detach()).any()) for t in tensors(value) if (t.is_floating_point() or t.is_complex()) and t.device.type != "meta")


def close(a, b, eps, what):
    for s, t in zip(tensors(a), tensors(b)):
        s, t = s.detach(), t.detach()
        if s.shape != t.shape:
            raise Wrong(f"{what}: shape {tuple(s.shape)} instead of {tuple(t.shape)}")
        if not (s.is_floating_point() or s.is_complex()) or not s.numel():
            continue
        good = torch.isfinite(s) & torch.isfinite(t)
        size = 1 + float(t[good].abs().max()) if good.any() else 1.0
        if good.any() and float((s - t)[good].abs().max()) > eps * size:
            raise Wrong(f"{what}: {float((s - t)[good].abs().max()):.2g} off at size {size:.2g}")


def prove(thing, method, given, named, result):
    """Raise Wrong where the result of thing.method(*given) is not what it should be."""
    arguments = [*given, *named.values()]
    x = next((a for a in arguments if torch.is_tensor(a)), None)
    public = {"__call__", "gradient", "prox", "activation", "gradient_z", "prox_x"}
    if has_nan(result) and tame(arguments):
        outside = isinstance(thing, pl.Functional) and method == "gradient" and not torch.isfinite(thing(x)).all()
        if not outside:
            raise Wrong("NaN from finite arguments")
    if method not in public or not isinstance(thing, (pl.Functional, pl.Operator, pl.Penalty)) or not tame(arguments) or x is None or not x.numel():
        return
    again = lambda change: getattr(thing, method)(*(change(a) if torch.is_tensor(a) else a for a in given), **{k: change(a) if torch.is_tensor(a) else a for k, a in named.items()})
    half = x.dtype in (torch.float16, torch.bfloat16)
    if not x.is_contiguous() or x.requires_grad:
        close(result, again(lambda t: t.detach().clone(memory_format=torch.contiguous_format)), 1e-2 if half else 1e-4, "other memory, other result")
    if x.dtype in (torch.float32, torch.complex64) and not isinstance(thing, pl.NuclearNorm):
        try:
            wide = again(lambda t: t.to(torch.complex128 if t.is_complex() else torch.float64))
        except (TypeError, ValueError):
            wide = result
        close(result, wide, 2e-2 if "Variation" in type(thing).__name__ or "DualProx" == type(thing).__name__ else 2e-3, "float32 against float64")
    if isinstance(thing, pl.Operator) and thing.is_linear and method == "__call__" and not half:
        w = randn(*result.shape, dtype=result.dtype)
        try:
            back = thing.adjoint(w)
        except TypeError:
            return
        product = lambda a, b: complex((a.detach().to(torch.complex128) * b.detach().to(torch.complex128).conj()).sum())
        left, right = product(result, w), product(x, back)
        complex_both = x.is_complex() == result.is_complex() == back.is_complex()
        gap = abs(left - right) if complex_both else abs(left.real - right.real)
        if gap > 1e-3 * (1 + float(result.detach().norm() * w.norm())):
            raise Wrong(f"<A x, y> = {left:.4g}, <x, A* y> = {right:.4g}")
    sigma = next((a for a in (*given[1:], *named.values()) if isinstance(a, (int, float))), 1.0)
    if isinstance(thing, pl.Functional) and method == "prox" and thing.convex and getattr(thing, "has_value",
                                                                                          True) and sigma > 0 and x.dtype == torch.float64 and len(arguments) < 3 \
            and (len(arguments) < 2 or isinstance(arguments[1], (int, float))):
        energy = lambda u: thing(u.detach()) + pl.operators.space.inner(u.detach() - x.detach(), u.detach() - x.detach(), thing.ndim) / (2 * sigma)
        best = energy(result)
        for size in (1e-3, 1e-1):
            other = energy(result + size * randn(*result.shape))
            if bool((best > other + 1e-3 * (1 + other.abs())).any()):
                raise Wrong(f"prox is no minimiser: {float((best - other).max()):.2g} above a point near by")


def use(thing, rng):
    """What was made must serve."""
    repr(thing)
    plain = lambda space: randn(*space.shape, dtype=space.dtype if space.dtype.is_floating_point or space.dtype.is_complex else torch.float32)
    if isinstance(thing, pl.Functional):
        space = thing.space or pl.Space(SHAPES[min(thing.ndim, 3)], torch.float64)
        for method, given in (("__call__", ()), ("prox", (0.7,)), ("gradient", ())):
            if (method != "prox" or thing.has_prox) and (method != "gradient" or thing.differentiable):
                prove(thing, method, (x := plain(space), *given), {}, getattr(thing, method)(x, *given))
    elif isinstance(thing, pl.LinearOperator):
        prove(thing, "__call__", (x := plain(thing.domain),), {}, thing(x))
    elif isinstance(thing, pl.Penalty):
        z = randn(*(thing.potential.space.shape if thing.potential.space else SHAPES[thing.ndim]))
        x = thing.activation(z)
        prove(thing, "__call__", (x, z), {}, (thing(x, z), thing.gradient_z(x, z), thing.prox_x(x, z, 0.5)))
    elif isinstance(thing, pl.Solver):
        result = thing.solve(solvable(thing), progress=False)
        if result.status is not pl.Status.DIVERGED and result.objective is not None and not np.isfinite(result.objective):
            raise Wrong(f"objective {result.objective} and status {result.status.name}")
    elif isinstance(thing, pl.Composite):
        value = thing.value(thing.start())
        if torch.isnan(value):
            raise Wrong("the objective at the start is NaN")
