"""Proximal incremental aggregated gradient: gradients of shards that arrive late."""

import warnings
from math import isfinite

import torch

from ..problems.finite_sum import FiniteSum
from .solver import NO_GRADIENT, NO_PROX, Solver
from .steps import check_step
from .stochastic import subtract

__all__ = ["PIAG"]


class PIAG(Solver):
    """u_{k+1} = prox_{gamma_k G}(u_k - gamma_k g_k [+ beta (u_k - u_{k-1})]), g_k = sum_i w_i grad F_i(u_{k - tau_{k,i}}): a table of shards' gradients of different ages.

    At update k the gradient of shard k mod m arrives; it was taken at u_{k - d_k}. An iteration is m updates, one pass. Without samples m = 1.

    Parameters
    ----------
    shards : m, consecutive parts of the samples.
    delays : d_k in updates: a number; a sequence, repeated; "random", uniform in 0 .. max_delay (from `seed`).
    step : "auto" or "adaptive": gamma_k = 0.9 max(h/L - sum of the steps since the oldest gradient in g_k, 0), h = 0.99, L^2 = sum_i w_i L_i^2;
        "fixed": h / (L (oldest possible + 1)); "bold": starts at 4 h / (L (oldest possible + 1)), at most 1/L, under a safeguard; or a positive number.
    momentum : beta of heavy ball, in [0, 1). A rule's gamma_k is multiplied by 1 - beta, a number is taken as it is. No theorem in general; on
        quadratics whose gradients all have age d, (1 - beta) / (L (d + 1)) lies below the exact threshold (doc/methods/piag.md).

    Converges for the adaptive and the fixed rule, F smooth, convex or not, G convex: Wu, Magnusson, Feyzmahdavian & Johansson, ICML 2022 (arXiv 2202.08550).
    Safeguard of "bold": after every 4 (oldest possible + 1) updates their mean aggregated objective must lie below the previous mean by 1e-4 sum |u_{k+1} - u_k|^2 / gamma_k;
    otherwise the method returns to where they began, waits for gradients from there and halves the step; below the fixed step it is the adaptive rule for good.
    So either the increments vanish, or the adaptive rule's theorem holds. Memory: max_delay + 1 points, and residuals and inputs as for SAGA.
    The residual is the proximal-gradient map's at the late aggregate plus L times the largest recent move, so that late gradients cannot feign an end.
    """

    needs = (NO_GRADIENT, NO_PROX)

    def __init__(self, max_iterations=100, shards=10, delays=0, max_delay=50, step="auto", momentum=0.0, seed=0, tolerance=0.0, max_seconds=float("inf")):
        super().__init__(max_iterations, tolerance, max_seconds)
        whole = lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0
        if not whole(shards) or shards < 1:
            raise ValueError(f"PIAG got shards={shards!r}; it needs an integer >= 1.")
        if delays != "random" and not whole(delays) and not (isinstance(delays, (list, tuple)) and delays and all(whole(d) for d in delays)):
            raise ValueError(f"PIAG got delays={delays!r}; it needs an integer >= 0, a sequence of them, or 'random'.")
        if not whole(max_delay):
            raise ValueError(f"PIAG got max_delay={max_delay!r}; it needs an integer >= 0.")
        if not 0 <= momentum < 1:
            raise ValueError(f"PIAG got momentum={momentum!r}; it needs a number in [0, 1).")
        self.shards, self.delays, self.momentum, self.seed = shards, delays, momentum, seed
        self.step_size = check_step(step, "PIAG", ("auto", "adaptive", "fixed", "bold"))
        self.max_delay = max_delay if delays == "random" else delays if isinstance(delays, int) else max(delays)

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
        if not isinstance(problem, FiniteSum):
            return [None]
        m, n = min(self.shards, problem.samples), problem.samples
        return [slice(i * n // m, (i + 1) * n // m) for i in range(m)]

    def _arrive(self, problem, point, part, table, first):
        """(the shard's share of F, the change of the aggregate) as the gradient taken at `point` takes its place in the table."""
        if part is None:
            lin = problem.linearise(point)
            change = lin.gradient if first else {k: g - table[k] for k, g in lin.gradient.items()}
            table.update(lin.gradient)
            return float(lin.value), change
        value, new = problem.factors(point, part, value=True)
        old = None if first else {l: (table[f"r{l}"][part], None if x is None else table[f"x{l}"][part]) for l, (_, x) in new.items()}
        change = problem.expand(new if first else subtract(new, old), part, 1 / problem.samples)
        for l, pair in new.items():
            for key, v in zip((f"r{l}", f"x{l}"), pair):
                if v is not None:
                    if first and key not in table:
                        table[key] = v.new_empty(problem.samples, *v.shape[1:])
                    table[key][part] = v
        return float(value) * ((part.stop - part.start) / problem.samples), change

    def _lipschitz(self, problem, point):
        """sqrt(sum_i w_i L_i^2) over the shards, the largest over the blocks."""
        total = 0.0
        for part in self._parts(problem):
            own, w = (problem, 1.0) if part is None else (problem.restrict(part), (part.stop - part.start) / problem.samples)
            bounds = own.lipschitz(point) if part is None else own.mean_lipschitz(point)
            total += w * (sum if part is None else max)(bounds.values()) ** 2
        if not isfinite(total):
            raise TypeError(f"PIAG cannot choose a step for {type(problem).__name__}: its smooth part has no Lipschitz bound; give a step, or use PGD(step='backtracking').")
        return max(total, 1e-60) ** 0.5

    # ---- the method
    def start(self, problem):
        point = problem.start_theta() if isinstance(problem, FiniteSum) else problem.start()
        names, m = problem.theta_names if isinstance(problem, FiniteSum) else list(point), len(self._parts(problem))
        L = self._lipschitz(problem, point) if isinstance(self.step_size, str) else 1 / self.step_size
        if not isinstance(self.step_size, str) and problem.convex:
            self._check_step(problem, point, m)
        bold = {"step": min(1.0, 3.96 / (self.max_delay + m)) / L, "since": 0, "begin": {n: point[n].clone() for n in names},
                "sum": 0.0, "moves": 0.0, "count": 0, "mean": None, "top": None, "jump": 0.0}
        return {"point": point, "previous": {n: point[n].clone() for n in names}, "ring": {n: torch.stack([point[n]] * (self.max_delay + 1)) for n in names},
                "table": {}, "aggregate": {}, "values": [], "born": [0] * m, "recent": [0.0] * (self.max_delay + m), "k": 0, "lipschitz": L, "bold": bold}

    def _check_step(self, problem, point, m):
        try:
            bound = 0.99 / (self._lipschitz(problem, point) * (self.max_delay + m))
        except TypeError:                                  # no Lipschitz bound to compare with
            return
        if self.step_size > 1.0001 * bound:
            warnings.warn(f"PIAG got step={self.step_size:g}; its theorem covers steps up to {bound:.3g}, larger ones may diverge; use step='auto'.", stacklevel=5)

    def _delays(self, k, m):
        """The delays of updates k .. k + m - 1."""
        if self.delays == "random":
            return torch.randint(self.max_delay + 1, (m,), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + k)).tolist()
        return [self.delays if isinstance(self.delays, int) else self.delays[(k + i) % len(self.delays)] for i in range(m)]

    def step(self, problem, state):
        parts, L, k, m = self._parts(problem), state["lipschitz"], state["k"], len(state["born"])
        ring, table, aggregate = ({n: v.clone() for n, v in state[key].items()} for key in ("ring", "table", "aggregate"))
        values, born, recent, bold, point, previous = list(state["values"]), list(state["born"]), list(state["recent"]), dict(state["bold"]), state["point"], state["previous"]
        names, fixed = list(ring), 0.99 / (L * (self.max_delay + m))
        if not values:
            for part in parts:
                value, change = self._arrive(problem, point, part, table, first=True)
                values.append(value + (float(problem.regularisation(point) if part else problem.nonsmooth_value(point)) / m if self.step_size == "bold" else 0.0))
                aggregate = {n: aggregate[n] + v if aggregate else v.clone() for n, v in change.items()}
        for i, delay in enumerate(self._delays(k, m)):
            delay = min(delay, k)
            at = point if delay == 0 else {**point, **{n: ring[n][(k - delay) % (self.max_delay + 1)] for n in names}}
            values[i], change = self._arrive(problem, at, parts[i], table, first=False)
            if self.step_size == "bold":
                values[i] += float(problem.regularisation(at) if parts[i] else problem.nonsmooth_value(at)) / m
            born[i] = k - delay
            torch._foreach_add_([aggregate[n] for n in names], [change[n] for n in names])
            age = k - min(born)
            guaranteed = 0.9 * max(0.99 / L - sum(recent[len(recent) - age:]), 0.0)
            if self.step_size in ("auto", "adaptive") or self.step_size == "bold" and bold["step"] < fixed:
                gamma = guaranteed
            elif self.step_size == "bold":
                gamma = bold["step"] if min(born) >= bold["since"] else 0.0
            else:
                gamma = fixed if self.step_size == "fixed" else float(self.step_size)
            new, recent = {}, recent[1:] + [gamma]
            if isinstance(self.step_size, str):
                gamma *= 1 - self.momentum
            if gamma:
                v = {n: torch.sub(point[n], aggregate[n], alpha=gamma) for n in names}
                if self.momentum:
                    v = {n: a.add_(point[n] - previous[n], alpha=self.momentum) for n, a in v.items()}
                new = problem.prox(v, dict.fromkeys(names, gamma))
            previous, point, k = {n: point[n] for n in names}, {**point, **new}, k + 1
            if self.step_size == "bold" and gamma and bold["step"] >= fixed:
                point = self._judge(point, previous, gamma, sum(values), 4 * (self.max_delay + m), k, bold)
            for n in names:
                ring[n][k % (self.max_delay + 1)] = point[n]
        self._passes = 1.0 if state["values"] else 2.0
        state = {**state, "point": point, "previous": previous, "ring": ring, "table": table, "aggregate": aggregate, "values": values, "born": born, "recent": recent,
                 "k": k, "bold": bold}
        jump = bold["jump"] if min(born) < bold["since"] else _distance(point, previous)
        return state, lambda: self._record(problem, point, aggregate, ring, L, jump)

    _passes = 1.0

    @property
    def passes_per_step(self):
        return self._passes

    def _judge(self, point, previous, gamma, value, window, k, bold):
        """The safeguard of the bold step, in `bold`: the point to go on from. `value` is the objective, every shard's at the point its gradient was taken at."""
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
            bold.update(step=0.5 * bold["step"], since=k, high=-float("inf"), sum=0.0, moves=0.0, count=0, jump=_distance(point, begin))
            previous.update(begin)
            return {**point, **begin}
        bold.update(mean=mean, top=bold["high"], high=-float("inf"), begin={n: point[n].clone() for n in previous}, sum=0.0, moves=0.0, count=0)
        return point

    def _record(self, problem, point, aggregate, ring, L, jump):
        """`jump`: the last move, which momentum may have made; the way back to where bold steps began, while gradients from elsewhere are in the aggregate."""
        moved = problem.prox({n: point[n] - g / L for n, g in aggregate.items()}, {n: 1 / L for n in aggregate})
        own = sum((point[n] - v).abs().square().sum(dtype=torch.float64) for n, v in moved.items()).sqrt()
        lag = sum((ring[n] - point[n]).abs().square().flatten(1).sum(1, dtype=torch.float64) for n in aggregate).max().sqrt()
        objective = problem.mean_loss(point) + problem.regularisation(point) if isinstance(problem, FiniteSum) else problem.value(point)
        return {"objective": float(objective), "residual": L * (float(own + lag) + jump), **problem.metrics(point)}


def _distance(a, b):
    """|a - b| over the blocks of b."""
    return float(sum((a[n] - v).abs().square().sum(dtype=torch.float64) for n, v in b.items()).sqrt())
