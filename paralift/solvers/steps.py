"""Step rules, and the forward-backward step that they steer."""

from math import inf, isfinite

import torch

from ..arguments import Count, checked
from ..notices import warn
from ..problems.problem import Point, Problem

__all__ = ["StepRule", "Constant", "Lipschitz", "Backtracking", "BarzilaiBorwein"]


_NO_BOUND = "use step='backtracking' (PGD, FISTA), BregmanPGD, or PDHG and ADMM with this part as f @ K."


class StepRule:
    """`start(problem, point)` gives the first steps {block: tau}; `search` says whether they are tried and cut."""

    search = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        checked(cls)

    def start(self, problem: Problem, point: Point) -> dict[str, float]:
        raise NotImplementedError(f"{type(self).__name__} defines no start(problem, point).")

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


class Constant(StepRule):
    """The same number on all blocks; warns once where it is above `bound`/L, L the largest Lipschitz bound of a block. Refused where L is inf."""

    def __init__(self, value: float, bound: float = 2.0):
        if not isinstance(value, (int, float)) or not 0 < value < inf:
            raise ValueError(f"Constant got the step {value!r}; it needs a positive number.")
        self.value, self.bound = float(value), bound

    def start(self, problem, point):
        try:
            bounds = problem.lipschitz(point)
        except NotImplementedError:
            bounds = {}
        largest = max(bounds.values(), default=0.0)
        if largest == inf:
            raise ValueError(f"the constant step {self.value:g} was given for a gradient without a finite Lipschitz bound, where no constant step is safe; {_NO_BOUND}")
        if self.value * largest > self.bound:
            warn(f"the step {self.value:g} is above the bound {self.bound:g}/L = {self.bound / largest:.4g} of the theorem; use step='auto'.")
        return {k: self.value for k in bounds or point}


class Lipschitz(StepRule):
    """factor/L_b for every block, L_b the problem's bound; factor 1 descends on a single block."""

    def __init__(self, factor: float = 1.0):
        if not factor > 0:
            raise ValueError(f"Lipschitz got factor={factor}; it needs a positive number.")
        self.factor = factor

    def start(self, problem, point):
        bounds = problem.lipschitz(point)
        if any(not isfinite(b) for b in bounds.values()):
            name = next(k for k, b in bounds.items() if not isfinite(b))
            raise ValueError(f"the gradient with respect to block {name!r} has no finite Lipschitz bound; {_NO_BOUND}")
        return {k: self.factor / b if b > 1e-12 else 1.0 for k, b in bounds.items()}


class Backtracking(StepRule):
    """Try `grow` times the last step and cut it by `shrink`, at most `limit` times, until F lies below its quadratic model. Starts from 1/L_b, or 1."""

    search = True

    def __init__(self, shrink: float = 0.5, grow: float = 1.3, limit: Count = 60):
        if not (0 < shrink < 1 and grow >= 1 and limit >= 1):
            raise ValueError(f"Backtracking got shrink={shrink}, grow={grow}, limit={limit}; it needs 0 < shrink < 1, grow >= 1, limit >= 1.")
        self.shrink, self.grow, self.limit = shrink, grow, limit

    def start(self, problem, point):
        try:
            bounds = problem.lipschitz(point)
        except NotImplementedError:
            bounds = dict.fromkeys(point, inf)
        return {k: 1 / b if 1e-12 < b < inf else 1.0 for k, b in bounds.items()}


class BarzilaiBorwein(Backtracking):
    """tau = <s, s> / <s, y>, s and y the last changes of point and gradient; cut, at most `limit` times, until E is below its largest value of the
    last `memory` steps by 1e-4 |change|^2 / (2 tau). Source: Wright, Nowak & Figueiredo, IEEE Trans. Signal Process. 57(7), 2009."""

    def __init__(self, memory: int = 10, shrink: float = 0.5, limit: Count = 60):
        super().__init__(shrink, 1.0, limit)
        if memory < 1:
            raise ValueError(f"BarzilaiBorwein got memory={memory}; it needs an integer >= 1.")
        self.memory = memory


class Auto(Backtracking):
    """1/L where the problem is convex with one block and L is known, backtracking otherwise (then the state's "search" is set)."""

    def __init__(self):
        super().__init__(grow=1.1)


def check_step(step, method, named=("auto",), more=""):
    """`step` where it is one of the names or a positive number; a ValueError in a sentence elsewhere."""
    number = isinstance(step, (int, float)) and not isinstance(step, bool) and 0 < step < inf
    if not number and not (isinstance(step, str) and step in named):
        raise ValueError(f"{method} got step={step!r}; it needs {', '.join(map(repr, named))} or a positive number{more}.")
    return step


def step_rule(step, method, bound=2.0, barzilai_borwein=False):
    """The rule that a `step` argument names; a number above bound/L warns."""
    named = {"auto": Auto, "backtracking": Backtracking, "lipschitz": Lipschitz, **({"barzilai_borwein": BarzilaiBorwein} if barzilai_borwein else {})}
    if isinstance(step, BarzilaiBorwein) and not barzilai_borwein:
        raise ValueError(f"{method} got step={step!r}; Barzilai-Borwein steps go without extrapolation: use PGD.")
    if isinstance(step, Constant):
        return Constant(step.value, min(step.bound, bound))
    if isinstance(step, StepRule):
        if isinstance(step, Lipschitz) and step.factor > bound:
            warn(f"{method} got the step {step.factor:g}/L, which is above the bound {bound:g}/L of the theorem; use step='auto'.")
        return step
    step = check_step(step, method, tuple(named), " or a step rule")
    return named[step]() if isinstance(step, str) else Constant(step, bound)


def start_steps(rule, problem, point, free=False):
    """What a method keeps in its state: steps, their common factor, whether they are searched for. `free`: the method extrapolates, so that Auto searches
    wherever the problem knows a first step and the search then costs no product (and no estimate of L)."""
    first = problem.first_step(point) if free and isinstance(rule, Auto) else None
    if first is not None:
        return {"steps": first, "scale": 1.0, "search": True}
    steps = rule.start(problem, point)
    search = rule.search
    if isinstance(rule, Auto):
        known = problem.convex and len(steps) == 1 and all(map(isfinite, problem.lipschitz(point).values()))
        search = not known
    return {"steps": steps, "scale": 1.0, "search": search}


def forward_backward(problem, y, rule, state, push=None, linearisation=None):
    """new = prox_{tau G}(y - tau grad F(y) + push): returns new, tau and the factor on the steps. `push` is {block: tensor} or None."""
    steps, scale, search = state["steps"], state["scale"], state["search"]
    if not search:
        gradient = problem.gradient(y) if linearisation is None else linearisation.gradient
        forward = {k: torch.sub(y[k], gradient[k], alpha=tau) for k, tau in steps.items()}
        if push is not None:
            forward = {k: v.add_(push[k]) for k, v in forward.items()}
        return {**y, **problem.prox(forward, steps)}, steps, scale
    lin = problem.linearise(y) if linearisation is None else linearisation
    scale *= rule.grow
    for _ in range(rule.limit):
        new, tau, fits, seen = attempt(problem, y, lin, {k: scale * s for k, s in steps.items()}, push)
        if fits:
            break
        scale *= rule.shrink
    return new, tau, scale if seen else min(scale, state["scale"])


def weighted_inner(problem, a, b, tau):
    """sum_k <a_k, b_k> / tau_k."""
    if len(tau) == 1:
        return problem.inner(a, b) / next(iter(tau.values()))
    return sum(problem.inner({k: v}, {k: b[k]}) / tau[k] for k, v in a.items())


def attempt(problem, y, lin, tau, push=None):
    """A forward-backward step from y; whether F lies below its quadratic model there, D_F(new, y) <= sum_k |new_k - y_k|^2 / (2 tau_k), up to rounding; and whether
    that is seen above the rounding error: where it is not, steps should not grow."""
    forward = {k: torch.sub(y[k], lin.gradient[k], alpha=t) for k, t in tau.items()}
    if push is not None:
        forward = {k: v.add_(push[k]) for k, v in forward.items()}
    new = {**y, **problem.prox(forward, tau)}
    d = {k: new[k] - y[k] for k in tau}
    allowed = 0.5 * weighted_inner(problem, d, d, tau)
    excess, rounding = problem.excess(new, y, lin, d)
    return new, tau, bool(excess <= allowed * (1 + 1e-12) + rounding), bool(allowed > rounding)


def residual(problem, new, y, tau):
    """|(new - y) / tau|: the norm of the proximal gradient map."""
    if len(tau) == 1:
        (k, t), = tau.items()
        return problem.norm({k: new[k] - y[k]}) / t
    return problem.norm({k: torch.sub(new[k], y[k]).mul_(1 / t) for k, t in tau.items()})
