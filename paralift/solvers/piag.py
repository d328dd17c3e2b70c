"""Proximal incremental aggregated gradient: gradients of shards that arrive late."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch

from ..arguments import Count, Extended, Seed
from ..notices import warn
from ..problems.finite_sum import FiniteSum, slices
from ..problems.problem import Point
from .solver import NO_GRADIENT, NO_PROX, Solver
from .steps import check_step
from .stochastic import subtract
from .stopping import Tolerance

__all__ = ["PIAG"]


class PIAG(Solver):
    """u_{k+1} = prox_{gamma_k G}(u_k - gamma_k g_k [+ beta (u_k - u_{k-1})]), g_k = sum_i w_i grad F_i(u_{k - tau_{k,i}}): a table of shards' gradients of different ages.

    At update k the gradient of shard k mod m arrives; it was taken at u_{k - d_k}. An iteration is m updates, one pass. Without samples m = 1.
    With `asynchronous` gradients arrive when they are ready: `solve(problem, workers=4)` keeps u and g_k on worker 0; every other worker takes the gradient of a shard of
    its own at the newest u that has reached it, sends what has changed since its last one, and begins again. `workers=Simulated(4, speeds=...)`: the same in one process.

    Parameters
    ----------
    shards : m, consecutive parts of the samples; None: 10, or one for every worker that takes gradients.
    delays : d_k in updates: a number; a sequence, repeated; "random", uniform in 0 .. max_delay (from `seed`).
    max_delay : the largest random delay; with `asynchronous` the largest age of a gradient in g_k: an update that would pass it waits for the shard. In updates; 0: synchronous.
        None: 50, or with `asynchronous` 20 m, so that a worker ten times slower than the others holds nobody up.
    step : "adaptive": gamma_k = 0.9 max(h/L - sum of the steps since the oldest gradient in g_k, 0), h = 0.99, L^2 = sum_i w_i L_i^2;
        "fixed": h / (L (oldest possible + 1)); "bold": starts at 4 h / (L (oldest possible + 1)), at most 1/L, or with `asynchronous` at 1/L, under a safeguard;
        "auto": "adaptive", or with `asynchronous` "bold"; or a positive number.
    momentum : beta of heavy ball, in [0, 1). A rule's gamma_k is multiplied by 1 - beta, a number is taken as it is. No theorem in general; on
        quadratics whose gradients all have age d, (1 - beta) / (L (d + 1)) lies below the exact threshold (doc/methods/piag.md).
    asynchronous : gradients come from workers. The history has "delay", the age of the oldest gradient in g_k, and "mean_delay", over the shards; its "objective", for
        which nobody waits, is sum_i w_i (F_i(v_i) + <grad F_i(v_i), u - v_i> + L_i |u - v_i|^2 / 2) + G(u), v_i the point of the shard's gradient: for a linear model an upper
        bound, exact once the v_i have come to u.

    Converges for the adaptive and the fixed rule, F smooth, convex or not, G convex: Wu, Magnusson, Feyzmahdavian & Johansson, ICML 2022 (arXiv 2202.08550).
    Safeguard of "bold": after every 4 (oldest possible + 1) updates their mean aggregated objective must lie below the previous mean by 1e-4 sum |u_{k+1} - u_k|^2 / gamma_k;
    otherwise the method returns to where they began, waits for gradients from there and halves the step; below the fixed step it is the adaptive rule for good. After 2^j
    windows that passed, j the failures so far, a halved step is doubled, for j <= 8. So either the increments vanish, or the adaptive rule's theorem holds.
    (The aggregated objective: every F_i at v_i, with `asynchronous` its tangent from there at u.)
    Memory: max_delay + 1 points, with `asynchronous` m on worker 0, and residuals and inputs as for SAGA, on the worker that owns the samples.
    The residual is the proximal-gradient map's at the late aggregate plus L times the largest recent move, |u - v_i| included, so that late gradients cannot feign an end.
    """

    needs = (NO_GRADIENT, NO_PROX)

    def __init__(self, max_iterations: Count = 100, shards: Count | None = None, delays: int | str | Sequence[int] = 0, max_delay: int | None = None, step: float | str = "auto",
                 momentum: float = 0.0, seed: Seed = 0, tolerance: float | Tolerance = 0.0, max_seconds: Extended = float("inf"), asynchronous: bool = False):
        super().__init__(max_iterations, tolerance, max_seconds)
        whole = lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0
        if shards is not None and (not whole(shards) or shards < 1):
            raise ValueError(f"PIAG got shards={shards!r}; it needs an integer >= 1.")
        if delays != "random" and not whole(delays) and not (isinstance(delays, (list, tuple)) and delays and all(whole(d) for d in delays)):
            raise ValueError(f"PIAG got delays={delays!r}; it needs an integer >= 0, a sequence of them, or 'random'.")
        if max_delay is not None and not whole(max_delay):
            raise ValueError(f"PIAG got max_delay={max_delay!r}; it needs an integer >= 0.")
        if not 0 <= momentum < 1:
            raise ValueError(f"PIAG got momentum={momentum!r}; it needs a number in [0, 1).")
        if asynchronous and delays != 0:
            raise ValueError(f"PIAG got delays={delays!r} and asynchronous=True, whose delays come from the workers; leave delays= out.")
        self.shards, self.delays, self.momentum, self.asynchronous, self.seed = shards, delays, momentum, bool(asynchronous), seed
        step = check_step(step, "PIAG", ("auto", "adaptive", "fixed", "bold"))
        self.step_size = step if step != "auto" else "bold" if asynchronous else "adaptive"
        self.shared = "gradients" if asynchronous else None
        largest = 50 if max_delay is None else max_delay
        self.max_delay = max_delay if asynchronous else largest if delays == "random" else delays if isinstance(delays, int) else max(delays)

    def check(self, problem):
        super().check(problem)
        obstacle = problem.table_obstacle() if isinstance(problem, FiniteSum) else ""
        if obstacle:
            raise TypeError(f"PIAG cannot solve {type(problem).__name__}: {obstacle}")
        if isinstance(problem, FiniteSum) and not problem.theta_names:
            raise ValueError("every parameter is frozen, and PIAG updates parameters only; free one, or use PGD or BCD, which find x.")

    # ---- shards and their gradients
    def _parts(self, problem):
        """Slices of the samples; None where the problem has none."""
        return slices(problem.samples, self.shards or 10) if isinstance(problem, FiniteSum) else [None]

    def arrive(self, problem: Any, point: Point, part: slice, table: Any, first: bool, n: int) -> tuple:
        """(the shard's share of F, the change of the aggregate) as the gradient taken at `point` takes its place in the table. The sum has n samples, of which `problem`
        may hold some."""
        if part is None:
            lin = problem.linearise(point)
            change = lin.gradient if first else {k: g - table[k] for k, g in lin.gradient.items()}
            table.update(lin.gradient)
            return float(lin.value), change
        value, new = problem.factors(point, part, value=True)
        old = None if first else {l: (table[f"r{l}"][part], None if x is None else table[f"x{l}"][part]) for l, (_, x) in new.items()}
        change = problem.expand(new if first else subtract(new, old), part, 1 / n)
        for l, pair in new.items():
            for key, v in zip((f"r{l}", f"x{l}"), pair):
                if v is not None:
                    if first and key not in table:
                        table[key] = v.new_empty(problem.samples, *v.shape[1:])
                    table[key][part] = v
        return float(value) * ((part.stop - part.start) / n), change

    def bound(self, problem: Any, point: Point, part: slice, n: int) -> float:
        """w_i L_i^2 of a shard of a sum of n samples, L_i the largest over the blocks."""
        if part is None:
            return sum(problem.lipschitz(point).values()) ** 2
        return (part.stop - part.start) / n * max(problem.restrict(part).mean_lipschitz(point).values()) ** 2

    def _lipschitz(self, problem, point):
        """sqrt(sum_i w_i L_i^2)."""
        total = sum(problem.bounds if self.asynchronous else [self.bound(problem, point, part, problem.samples) for part in self._parts(problem)])
        if not isfinite(total):
            raise TypeError(f"PIAG cannot choose a step for {type(problem).__name__}: its smooth part has no Lipschitz bound; give a step, or use PGD(step='backtracking').")
        return max(total, 1e-60) ** 0.5

    # ---- the method
    def start(self, problem):
        if self.asynchronous and not problem.arrivals:
            raise ValueError("PIAG(asynchronous=True) got one worker; it needs one for the parameters and at least one for gradients: solve(problem, workers=2) or more.")
        finite = isinstance(problem, FiniteSum) or self.asynchronous
        point = problem.start_theta() if finite else problem.start()
        names, m = problem.theta_names if finite else list(point), problem.shards if self.asynchronous else len(self._parts(problem))
        oldest = self._oldest(m)
        L = self._lipschitz(problem, point) if isinstance(self.step_size, str) else 1 / self.step_size
        if not isinstance(self.step_size, str) and problem.convex:
            self._check_step(problem, point, oldest)
        step = min(1.0, 1.0 if self.asynchronous else 3.96 / (oldest + 1)) / L
        bold = {"step": step, "largest": step, "good": 0, "wait": 1, "since": 0, "begin": {n: point[n].clone() for n in names},
                "sum": 0.0, "moves": 0.0, "count": 0, "mean": None, "top": None, "jump": 0.0}
        own = {"taken": []} if self.asynchronous else {"ring": {n: torch.stack([point[n]] * (self.max_delay + 1)) for n in names}, "table": {}}
        return {"point": point, "previous": {n: point[n].clone() for n in names}, "aggregate": {}, "values": [], "born": [0] * m, "recent": [0.0] * (oldest + 1), "k": 0,
                "lipschitz": L, "bold": bold, **own}

    def _oldest(self, m):
        """How old a gradient in the aggregate can be, in updates."""
        return self.max_delay + m - 1 if not self.asynchronous else 20 * m if self.max_delay is None else self.max_delay

    def _check_step(self, problem, point, oldest):
        try:
            bound = 0.99 / (self._lipschitz(problem, point) * (oldest + 1))
        except TypeError:                                  # no Lipschitz bound to compare with
            return
        if self.step_size > 1.0001 * bound:
            warn(f"PIAG got step={self.step_size:g}; its theorem covers steps up to {bound:.3g}, larger ones may diverge; use step='auto'.")

    def _delays(self, k, m):
        """The delays of updates k .. k + m - 1."""
        if self.delays == "random":
            return torch.randint(self.max_delay + 1, (m,), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + k)).tolist()
        return [self.delays if isinstance(self.delays, int) else self.delays[(k + i) % len(self.delays)] for i in range(m)]

    def step(self, problem, state):
        now = {**state, **{key: list(state[key]) for key in ("values", "born", "recent")}, "bold": dict(state["bold"]),
               "aggregate": {n: v.clone() for n, v in state["aggregate"].items()}}
        return (self._free_running if self.asynchronous else self._in_turn)(problem, state, now)

    def _in_turn(self, problem, state, now):
        parts, k, m = self._parts(problem), state["k"], len(state["born"])
        ring, table = ({n: v.clone() for n, v in state[key].items()} for key in ("ring", "table"))
        names, aggregate = list(ring), now["aggregate"]
        if not now["values"]:
            for part in parts:
                value, change = self.arrive(problem, now["point"], part, table, True, problem.samples)
                now["values"].append(value + self._share(problem, now["point"], m))
                aggregate.update({n: aggregate[n] + v if n in aggregate else v.clone() for n, v in change.items()})
        for i, delay in enumerate(self._delays(k, m)):
            k, delay = now["k"], min(delay, now["k"])
            at = now["point"] if delay == 0 else {**now["point"], **{n: ring[n][(k - delay) % (self.max_delay + 1)] for n in names}}
            now["values"][i], change = self.arrive(problem, at, parts[i], table, False, problem.samples)
            now["values"][i] += self._share(problem, at, m)
            now["born"][i] = k - delay
            torch._foreach_add_([aggregate[n] for n in names], [change[n] for n in names])
            self._update(problem, now, lambda: sum(now["values"]))
            for n in names:
                ring[n][(k + 1) % (self.max_delay + 1)] = now["point"][n]
        self.passes_per_step = 1.0 if state["values"] else 2.0
        now.update(ring=ring, table=table)
        lag = lambda: float(sum((ring[n] - now["point"][n]).abs().square().flatten(1).sum(1, dtype=torch.float64) for n in names).max().sqrt())
        return now, lambda: self._record(problem, now, lag())

    def _share(self, problem, point, m):
        """A shard's part of G, where the safeguard looks at it."""
        if self.step_size != "bold":
            return 0.0
        return float(problem.regularisation(point) if isinstance(problem, FiniteSum) else problem.nonsmooth_value(point)) / m

    def _free_running(self, problem, state, now):
        """m updates, each from what has arrived until then; a gradient that would pass the bound is waited for, and at first every shard's."""
        m, names, aggregate, bold, ages, means, rows = problem.shards, list(now["previous"]), now["aggregate"], now["bold"], [], [], 0
        oldest = self._oldest(m)
        if problem.fresh:                                        # the workers' tables are empty, also where a run is resumed
            aggregate.update({n: torch.zeros_like(now["point"][n]) for n in names})
            now.update(born=[-1] * m, values=[0.0] * m, taken=[{}] * m, recent=[0.0] * (oldest + 1))
        born, taken = now["born"], list(now["taken"])
        model = lambda: sum(now["values"]) + float(problem.inner(aggregate, now["point"])) + float(problem.regularisation(now["point"]))
        for _ in range(m):
            least, arrived = max(now["k"] - oldest, bold["since"], 0), False
            while not arrived or min(born) < least:
                arrived = True
                for i, value, version, at, change, size in problem.arrivals(now["k"], now["point"], born):
                    now["values"][i], born[i], taken[i], rows = value, version, {n: at[n] for n in names}, rows + size
                    torch._foreach_add_([aggregate[n] for n in names], [change[n] for n in names])
            ages.append(now["k"] - min(born))
            means.append(now["k"] - sum(born) / m)
            self._update(problem, now, model)
        now["taken"], self.passes_per_step = taken, rows / problem.samples

        def record():
            lags = [_distance(now["point"], at) for at in taken]
            above = 0.5 * sum((size / problem.samples * b) ** 0.5 * lag**2 for size, b, lag in zip(problem.sizes, problem.bounds, lags))
            return {"objective": model() + above, **self._record(problem, now, max(lags)), "delay": max(ages), "mean_delay": sum(means) / m}

        return now, record

    def _update(self, problem, now, value):
        """One step along the aggregate, in `now`; value() is the objective as far as the late gradients tell."""
        point, previous, aggregate, born, recent, bold, L, k = (now[key] for key in ("point", "previous", "aggregate", "born", "recent", "bold", "lipschitz", "k"))
        oldest, names, new = self._oldest(len(born)), list(aggregate), {}
        age, fixed = k - min(born), 0.99 / (L * (oldest + 1))
        if self.step_size == "adaptive" or self.step_size == "bold" and bold["step"] < fixed:
            gamma = 0.9 * max(0.99 / L - sum(recent[len(recent) - age:]), 0.0)
        elif self.step_size == "bold":
            gamma = bold["step"] if min(born) >= bold["since"] else 0.0
        else:
            gamma = fixed if self.step_size == "fixed" else float(self.step_size)
        now["recent"] = recent[1:] + [gamma]
        if isinstance(self.step_size, str):
            gamma *= 1 - self.momentum
        if gamma:
            v = {n: torch.sub(point[n], aggregate[n], alpha=gamma) for n in names}
            if self.momentum:
                v = {n: a.add_(point[n] - previous[n], alpha=self.momentum) for n, a in v.items()}
            new = problem.prox(v, dict.fromkeys(names, gamma))
        judged = self.step_size == "bold" and gamma and bold["step"] >= fixed
        before = value() if judged else None
        previous, point = {n: point[n] for n in names}, {**point, **new}
        if judged:
            point = self._judge(point, previous, gamma, before, 4 * (oldest + 1), k + 1, bold)
        now.update(point=point, previous=previous, k=k + 1)

    def _judge(self, point, previous, gamma, value, window, k, bold):
        """The safeguard of the bold step, in `bold`: the point to go on from. `value` is the aggregated objective before the step."""
        if bold["mean"] is None:
            bold.update(mean=value, top=value, high=value)
        bold["sum"] += value
        bold["moves"] += _distance(point, previous) ** 2 / gamma
        bold["count"] += 1
        bold["high"] = max(bold["high"], value)
        slack = 64 * torch.finfo(next(iter(previous.values())).dtype).eps * abs(bold["mean"])
        rose = not value <= bold["top"] + slack
        if not rose and bold["count"] < window:
            return point
        mean = bold["sum"] / bold["count"]
        if rose or mean > bold["mean"] - 1e-4 * bold["moves"] + slack:
            begin = bold["begin"]
            bold.update(step=0.5 * bold["step"], good=0, wait=2 * bold["wait"], since=k, mean=None, sum=0.0, moves=0.0, count=0, jump=_distance(point, begin))
            previous.update(begin)
            return {**point, **begin}
        bold.update(mean=mean, top=bold["high"], high=-float("inf"), begin={n: point[n].clone() for n in previous}, sum=0.0, moves=0.0, count=0, good=bold["good"] + 1)
        if bold["step"] < bold["largest"] and bold["wait"] <= min(bold["good"], 256):
            bold.update(step=2 * bold["step"], good=0)
        return point

    def _record(self, problem, now, lag):
        """lag: how far the points of the gradients in the aggregate may be. Besides: the last move, which momentum may have made; the way back to where bold steps began,
        while gradients from elsewhere are in the aggregate."""
        point, aggregate, bold, L = (now[key] for key in ("point", "aggregate", "bold", "lipschitz"))
        jump = bold["jump"] if min(now["born"]) < bold["since"] else _distance(point, now["previous"])
        moved = problem.prox({n: point[n] - g / L for n, g in aggregate.items()}, {n: 1 / L for n in aggregate})
        record = {"residual": L * (_distance(point, moved) + lag + jump), **problem.metrics(point)}
        if self.asynchronous:
            return record
        objective = problem.mean_loss(point) + problem.regularisation(point) if isinstance(problem, FiniteSum) else problem.value(point)
        return {"objective": float(objective), **record}


def _distance(a, b):
    """|a - b| over the blocks of b."""
    return float(sum((a[n] - v).abs().square().sum(dtype=torch.float64) for n, v in b.items()).sqrt())
