"""SVRG: variance reduction around a snapshot, without a table."""

from typing import Literal

import torch

from ..arguments import Count, Extended, Seed
from .stochastic import Stochastic
from .stopping import Tolerance

__all__ = ["SVRG"]


class SVRG(Stochastic):
    """For every minibatch S: theta <- prox_{gamma R}(theta - gamma (mean_S (grad f_i(theta) - grad f_i(w)) + grad F(w))); the snapshot w is renewed now and then.

    Parameters
    ----------
    epochs : passes of minibatches over the samples (an iteration); renewals come on top, and `data_passes` counts all gradients.
    batch_size : samples in a minibatch.
    step : gamma. "auto": 1 / (6 ell) with ell the expected smoothness of the minibatches.
    refresh : "random" renews w with probability b/n after each minibatch (loopless), "epoch" once a pass, at its start.
    seed : of the orders and the renewals.
    tolerance : stop once |w - prox(w - gamma grad F(w))| / gamma is at most this.

    Memory: two copies of the parameters. Serves every layer, also those without per-sample gradients (BatchNorm), there without a theorem.
    Converges linearly for F + R strongly convex, a factor 1 - min(gamma mu, b / (2 n)) a minibatch (independent draws).
    Sources: Xiao & Zhang, SIAM J. Optim. 24(4), 2014; Kovalev, Horvath & Richtarik, ALT 2020; with the prox: Gorbunov, Hanzely & Richtarik, AISTATS 2020.
    """

    def __init__(self, epochs: Count = 50, batch_size: Count = 16, step: float | str = "auto", refresh: Literal["random", "epoch"] = "random", seed: Seed = 0,
                 tolerance: float | Tolerance = 0.0, max_seconds: Extended = float("inf")):
        super().__init__(epochs, batch_size, step, seed, tolerance, max_seconds)
        self.refresh = refresh

    def start(self, problem):
        theta = problem.start_theta()
        return {"point": theta, "epoch": 0, "steps": self._steps(problem, theta, lambda L, ell, n, b: 1 / (6 * ell)), "factored": not problem.table_obstacle(),
                "snapshot": {k: v.clone() for k, v in theta.items()}, "gradient": None}

    def step(self, problem, state):
        theta, names, steps, n = {k: v.clone() for k, v in state["point"].items()}, problem.theta_names, state["steps"], problem.samples
        anchor, gradient, factored, renewals = state["snapshot"], state["gradient"], state["factored"], 0
        chance = torch.Generator().manual_seed(self.seed * 9_176_263 + state["epoch"])
        due = gradient is None or self.refresh == "epoch"
        for part, rows, batches in self._batches(problem, state["epoch"]):
            renew = (torch.rand(len(batches), generator=chance) < self.batch_size / n).tolist()
            for s, soon in zip(batches, renew):
                if due:
                    anchor, gradient, renewals = {k: v.clone() for k, v in theta.items()}, self._full_gradient(problem, theta, factored), renewals + 1
                change = self._difference(part, s, theta, anchor, factored)
                for k in names:
                    theta[k].add_(gradient[k], alpha=-steps[k]).add_(change[k], alpha=-steps[k])
                    if k in problem.regularisers:
                        theta[k].copy_(problem.regularisers[k]._prox(theta[k], steps[k]))
                due = soon and self.refresh == "random"
        self.passes_per_step = 2.0 + renewals
        state = {**state, "point": theta, "epoch": state["epoch"] + 1, "snapshot": anchor, "gradient": None if due else gradient}
        return state, self._record(problem, theta, anchor, gradient, steps)
