"""SAGA: variance reduction with a table of per-sample gradients."""

import math

import torch

from ..arguments import Count, Extended, Seed
from .stochastic import Stochastic, subtract
from .stopping import Tolerance

__all__ = ["SAGA"]

SEARCH_EVERY = 16                # minibatches between two trials of the step


class SAGA(Stochastic):
    """For every minibatch S: theta <- prox_{gamma R}(theta - gamma (mean_S (grad f_i(theta) - g_i) + mean_all g_i)), then g_i <- grad f_i(theta), i in S;
    gamma = b / ((b + 1) ell M), b samples in S, M a diagonal metric.

    Parameters
    ----------
    epochs : passes over the samples (an iteration is a pass, each in a fresh order).
    batch_size : samples in a minibatch.
    step : "auto": "search" where the problem is convex, "lipschitz" elsewhere. "search": ell is doubled where F_S(theta - d) > F_S(theta) - ell <d, M d> / 2,
        d = M^-1 grad F_S(theta) / ell, tried on some minibatches, and halves over a pass, but not below twice its value in a pass whose residual rose;
        M_j is the mean square of input j, plus 1 % of the largest, where R is separable.
        (b/(b + 1) is the best factor where all f_i have the same curvature: the error falls by 1/(b + 1) a minibatch.)
        "lipschitz": M = 1 and gamma = 1 / (4 ell) with ell the expected smoothness of minibatches, which falls from L_max (b = 1) to L (b = n). Or a number, gamma.
    seed : of the orders; the same seed gives the same run.
    tolerance : stop once |(theta - prox(theta - gamma mean_all g_i)) / gamma| is at most this.

    The table keeps residuals and inputs, n (d_in + d_out) numbers a stage (`print(problem)` states them); of a linear model n d_out. It starts exact, one pass more.
    Converges linearly for F + R strongly convex, as 1/k for F convex (step <= 1/(3 L_max), independent draws: Defazio, Bach & Lacoste-Julien, NeurIPS 2014);
    minibatch step: Gazagnadou, Gower & Salmon, ICML 2019; search: Schmidt, Le Roux & Bach, Math. Program. 162, 2017, section 4.6, which has no theorem but local bounds.
    For deeper networks, which are not convex, the step is a heuristic.
    """

    def __init__(self, epochs: Count = 50, batch_size: Count = 16, step: float | str = "auto", seed: Seed = 0, tolerance: float | Tolerance = 0.0,
                 max_seconds: Extended = float("inf")):
        super().__init__(epochs, batch_size, step, seed, tolerance, max_seconds, ("auto", "search", "lipschitz"))

    def check(self, problem):
        super().check(problem)
        obstacle = problem.table_obstacle()
        if obstacle:
            raise TypeError(f"{type(self).__name__} cannot solve {type(problem).__name__}: {obstacle}")

    def start(self, problem):
        theta = problem.start_theta()
        search = self.step_size == "search" or self.step_size == "auto" and problem.convex
        state = {"point": theta, "epoch": 0, "table": None, "mean": None}
        if not search:
            return {**state, "steps": self._steps(problem, theta, lambda L, ell, n, b: 1 / (4 * ell)), "metric": None, "ell": 0.0}
        self._require_bounds(problem, {name: problem.loss.lipschitz for name in problem.theta_names})
        return {**state, "steps": {}, "metric": self._metric(problem, theta), "ell": 1e-3 * problem.loss.lipschitz, "floor": 0.0, "residuals": (math.inf, math.inf)}

    @staticmethod
    def _metric(problem, theta):
        """{name: M}: a row of mean squares, from at most 4096 samples, for the weights of the first stage; 1 elsewhere."""
        metric, stage = dict.fromkeys(problem.theta_names, 1.0), problem.stages[0]
        weight = next((name for name, inside in stage.theta.items() if inside == "weight"), None)
        R = problem.regularisers.get(weight)
        if stage.is_linear_layer and weight in metric and (R is None or R.separable):
            x = problem.inputs[::max(1, problem.samples // 4096)].flatten(0, -2)
            squares = x.square().mean(0, keepdim=True)
            metric[weight] = squares + 0.01 * squares.max().clamp(min=torch.finfo(x.dtype).tiny)
        return metric

    @staticmethod
    def _searched(problem, part, s, theta, value, gradient, metric, ell):
        """ell, multiplied by 1.5 until F_S falls enough along its own gradient."""
        d = {k: g / metric[k] for k, g in gradient.items()}
        size = problem.inner(gradient, d)
        slack = 10 * torch.finfo(value.dtype).eps * value.abs()
        for _ in range(100):
            moved = part.factors({**theta, **{k: torch.sub(theta[k], v, alpha=1 / ell) for k, v in d.items()}}, s, value=True)[0]
            if moved <= value - size / (2 * ell) + slack:
                break
            ell *= 1.5
        return ell

    def _fill(self, problem, theta):
        """The table at theta, {"r1": residuals, "x2": inputs, ...} with samples on the first axis, and its mean gradient."""
        table, mean, n = {}, {}, problem.samples
        for begin in range(0, n, 4096):
            rows = torch.arange(begin, min(n, begin + 4096), device=problem.inputs.device)
            part = problem.restrict(slice(begin, begin + 4096))
            found = part.factors(theta)
            for key, v in _flat(found).items():
                table.setdefault(key, v.new_empty(problem.own_samples, *v.shape[1:])).index_copy_(0, problem.own_rows(rows, [slice(0, len(rows))])[0], v)
            own = part.expand(found, scale=1 / n)
            mean = {name: mean[name] + g if mean else g for name, g in own.items()}
        return table, mean

    def step(self, problem, state):
        theta, names = {k: v.clone() for k, v in state["point"].items()}, problem.theta_names
        steps, n, metric, ell, self.passes_per_step = state["steps"], problem.samples, state["metric"], state["ell"], 1.0
        if state["table"] is None:
            (old, mean), self.passes_per_step = self._fill(problem, theta), 2.0
        else:
            old, mean = state["table"], {k: v.clone() for k, v in state["mean"].items()}
        table, count = {k: torch.empty_like(v) for k, v in old.items()}, 0
        for part, rows, batches in self._batches(problem, state["epoch"]):
            sizes = [s.stop - s.start for s in batches]
            own, own_sizes = problem.own_rows(rows, batches)
            before, after = {k: v.index_select(0, own).split(own_sizes) for k, v in old.items()}, {k: [] for k in old}
            for i, (s, b) in enumerate(zip(batches, sizes)):
                due = metric is not None and (count % SEARCH_EVERY == 0 or count < SEARCH_EVERY and not state["epoch"])
                found, count = part.factors(theta, s, value=due), count + 1
                if due:
                    value, found = found
                    ell = self._searched(problem, part, s, theta, value, part.expand(found, s), metric, max(state["floor"], ell * 0.5 ** (SEARCH_EVERY * b / n)))
                    steps = {k: b / ((b + 1) * ell * m) for k, m in metric.items()}
                for key, v in _flat(found).items():
                    after[key].append(v)
                change = part.expand(subtract(found, {l: (before[f"r{l}"][i], None if x is None else before[f"x{l}"][i]) for l, (_, x) in found.items()}), s, 1 / b)
                for k in names:
                    v, step, d = theta[k], steps[k], change[k]
                    if torch.is_tensor(step):
                        v.addcmul_(d + mean[k], step, value=-1)
                    else:
                        v.add_(mean[k], alpha=-step).add_(d, alpha=-step)
                    if k in problem.regularisers:
                        theta[k] = problem.regularisers[k]._prox(v, step)
                    mean[k].add_(d, alpha=b / n)
            for key, v in after.items():
                table[key].index_copy_(0, own, torch.cat(v))
        state = {**state, "point": theta, "epoch": state["epoch"] + 1, "table": table, "mean": mean, "steps": steps, "ell": ell}
        if metric is not None:
            residual, (best, last) = float(self._residual(problem, theta, mean, steps)), state["residuals"]
            if residual > last and residual > 1.5 * best:
                state["floor"] = 2 * ell                       # the steps were too long
            state["residuals"] = (min(best, residual), residual)
        return state, self._record(problem, theta, theta, mean, steps)


def _flat(factors):
    return {key: v for l, (r, x) in factors.items() for key, v in ((f"r{l}", r), (f"x{l}", x)) if v is not None}
