"""Loopless Katyusha: accelerated variance reduction."""

import torch

from ..arguments import Count, Extended, Seed
from .stochastic import Stochastic
from .stopping import Tolerance

__all__ = ["Katyusha"]


class Katyusha(Stochastic):
    """L-Katyusha with a prox. For every minibatch S, with p = b/n, sigma = mu / ell, eta = t2 / ((1 + t2) t1):

        x = t1 z + t2 w + (1 - t1 - t2) y,                  g = mean_S (grad f_i(x) - grad f_i(w)) + grad F(w),
        z+ = prox_{eta / (ell (1 + eta sigma)) R}((eta sigma x + z - (eta / ell) g) / (1 + eta sigma)),      y+ = x + t1 (z+ - z),
        w+ = y with probability p.

    Parameters
    ----------
    epochs, batch_size, seed, tolerance : as for SVRG; the point is y, the residual is the snapshot's.
    step : 1 / ell. "auto": ell is the expected smoothness of the minibatches.
    strong_convexity : mu > 0 of F (1/n sum f_i), by name; what the theorem assumes. A guess that is too large slows or spoils the end, one that is too small costs sqrt.

    t2 = 1/2, t1 = min(sqrt(2 sigma / (3 p)), 1/2). With independent draws the Lyapunov function falls by max(1 / (1 + eta sigma), 1 - t1 / 2, 1 - p t1 / (1 + t1)) or
    more a minibatch: O((1/p + sqrt(ell / (mu p))) log 1/eps) of them.
    Sources: Kovalev, Horvath & Richtarik, ALT 2020 (Algorithm 2); with the prox: Qian, Qu & Richtarik, J. Mach. Learn. Res. 22, 2021.
    """

    def __init__(self, epochs: Count = 50, batch_size: Count = 16, step: float | str = "auto", seed: Seed = 0, tolerance: float | Tolerance = 0.0,
                 max_seconds: Extended = float("inf"), *, strong_convexity: float | None = None):
        super().__init__(epochs, batch_size, step, seed, tolerance, max_seconds)
        if not isinstance(strong_convexity, (int, float)) or not 0 < strong_convexity < float("inf"):
            raise ValueError(f"Katyusha got strong_convexity={strong_convexity!r}; it needs a positive number, the strong convexity mu of the smooth part: "
                             "Katyusha(strong_convexity=mu); SAGA, SVRG and PGD(acceleration='nesterov') need none.")
        self.strong_convexity = strong_convexity

    def start(self, problem):
        theta = problem.start_theta()
        step = min(self._steps(problem, theta, lambda L, ell, n, b: 1 / ell).values())
        return {"point": theta, "z": {k: theta[k].clone() for k in problem.theta_names}, "snapshot": {k: v.clone() for k, v in theta.items()}, "gradient": None,
                "epoch": 0, "step": step, "factored": not problem.table_obstacle()}

    def step(self, problem, state):
        names, n, step, factored = problem.theta_names, problem.samples, state["step"], state["factored"]
        p = min(1.0, self.batch_size / n)
        sigma, t2 = min(1.0, self.strong_convexity * step), 0.5
        t1 = min((2 * sigma / (3 * p)) ** 0.5, 0.5)
        eta = t2 / ((1 + t2) * t1)
        y, z, w, gradient = {k: v.clone() for k, v in state["point"].items()}, {k: v.clone() for k, v in state["z"].items()}, state["snapshot"], state["gradient"]
        chance, renewals = torch.Generator().manual_seed(self.seed * 9_176_263 + state["epoch"]), 0
        x, scale, due = dict(y), 1 / (1 + eta * sigma), gradient is None
        for part, rows, batches in self._batches(problem, state["epoch"]):
            renew = (torch.rand(len(batches), generator=chance) < p).tolist()
            for s, soon in zip(batches, renew):
                if due:
                    gradient, renewals = self._full_gradient(problem, w, factored), renewals + 1
                for k in names:
                    x[k] = torch.lerp(y[k], z[k], t1).add_(w[k], alpha=t2).sub_(y[k], alpha=t2)
                change = self._difference(part, s, x, w, factored)
                due = soon
                w = {k: v.clone() for k, v in y.items()} if due else w
                for k in names:
                    v = change[k].add_(gradient[k]).mul_(-eta * step).add_(z[k]).add_(x[k], alpha=eta * sigma).mul_(scale)
                    new = problem.regularisers[k]._prox(v, eta * step * scale) if k in problem.regularisers else v
                    y[k] = torch.sub(new, z[k]).mul_(t1).add_(x[k])
                    z[k] = new
        if due:
            gradient, renewals, due = self._full_gradient(problem, w, factored), renewals + 1, False
        self.passes_per_step = 2.0 + renewals
        state = {**state, "point": y, "z": z, "snapshot": w, "gradient": gradient, "epoch": state["epoch"] + 1}
        return state, self._record(problem, y, w, gradient, {k: step for k in names})
