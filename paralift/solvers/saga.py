"""SAGA: variance reduction with a table of per-sample gradients."""

import torch

from .stochastic import Stochastic, subtract

__all__ = ["SAGA"]


class SAGA(Stochastic):
    """For every minibatch S: theta <- prox_{gamma R}(theta - gamma (mean_S (grad f_i(theta) - g_i) + mean_all g_i)), then g_i <- grad f_i(theta), i in S.

    Parameters
    ----------
    epochs : passes over the samples (an iteration is a pass, each in a fresh order).
    batch_size : samples in a minibatch.
    step : gamma. "auto": 1 / (4 ell) with ell the expected smoothness of minibatches, which falls from L_max (b = 1) to L (b = n).
    seed : of the orders; the same seed gives the same run.
    tolerance : stop once |theta - prox(theta - gamma mean_all g_i)| / gamma is at most this.

    The table keeps residuals and inputs, n (d_in + d_out) numbers a stage (`print(problem)` states them); of a linear model n d_out. It starts exact, one pass more.
    Converges linearly for F + R strongly convex, as 1/k for F convex (step <= 1/(3 L_max), independent draws: Defazio, Bach & Lacoste-Julien, NeurIPS 2014);
    minibatch step: Gazagnadou, Gower & Salmon, ICML 2019. For deeper networks, which are not convex, the step is a heuristic.
    """

    def __init__(self, epochs=50, batch_size=16, step="auto", seed=0, tolerance=0.0, max_seconds=float("inf")):
        super().__init__(epochs, batch_size, step, seed, tolerance, max_seconds)

    def check(self, problem):
        super().check(problem)
        obstacle = problem.table_obstacle()
        if obstacle:
            raise TypeError(f"{type(self).__name__} cannot solve {type(problem).__name__}: {obstacle}")

    def start(self, problem):
        theta = problem.start_theta()
        return {"point": theta, "epoch": 0, "steps": self._steps(problem, theta, lambda L, ell, n, b: 1 / (4 * ell)), "table": None, "mean": None}

    def _fill(self, problem, theta):
        """The table at theta, {"r1": residuals, "x2": inputs, ...} with samples on the first axis, and its mean gradient."""
        table, mean, n = {}, {}, problem.samples
        for begin in range(0, n, 4096):
            part = problem.restrict(slice(begin, begin + 4096))
            found = part.factors(theta)
            for key, v in _flat(found).items():
                table.setdefault(key, v.new_empty(n, *v.shape[1:]))[begin:begin + 4096] = v
            own = part.expand(found, scale=1 / n)
            mean = {name: mean[name] + g if mean else g for name, g in own.items()}
        return table, mean

    def step(self, problem, state):
        theta, names = {k: v.clone() for k, v in state["point"].items()}, problem.theta_names
        steps, n, self._passes = state["steps"], problem.samples, 1.0
        if state["table"] is None:
            (old, mean), self._passes = self._fill(problem, theta), 2.0
        else:
            old, mean = state["table"], {k: v.clone() for k, v in state["mean"].items()}
        table = {k: torch.empty_like(v) for k, v in old.items()}
        own, means, sizes = [theta[k] for k in names], [mean[k] for k in names], [-steps[k] for k in names]
        shrink = [(k, theta[k]) for k in names if k in problem.regularisers]
        for part, rows, batches in self._batches(problem, state["epoch"]):
            before = {k: v.index_select(0, rows) for k, v in old.items()}
            after = {k: torch.empty_like(v) for k, v in before.items()}
            for s in batches:
                found, b = part.factors(theta, s), s.stop - s.start
                for key, v in _flat(found).items():
                    after[key][s] = v
                change = part.expand(subtract(found, {l: (before[f"r{l}"][s], None if x is None else before[f"x{l}"][s]) for l, (_, x) in found.items()}), s, 1 / b)
                change = [change[k] for k in names]
                for v, g, d, size in zip(own, means, change, sizes):
                    v.add_(g, alpha=size).add_(d, alpha=size)
                torch._foreach_add_(means, change, alpha=b / n)
                for k, v in shrink:
                    v.copy_(problem.regularisers[k]._prox(v, steps[k]))
            for key, v in after.items():
                table[key].index_copy_(0, rows, v)
        state = {**state, "point": theta, "epoch": state["epoch"] + 1, "table": table, "mean": mean}
        return state, self._record(problem, theta, theta, mean, steps)


def _flat(factors):
    return {key: v for l, (r, x) in factors.items() for key, v in ((f"r{l}", r), (f"x{l}", x)) if v is not None}
