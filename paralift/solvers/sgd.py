"""Proximal stochastic gradient descent on minibatches."""

import torch

from .metrics import METRICS, metric_prox, metric_start, metric_step
from .stochastic import Stochastic

__all__ = ["SGD"]


class SGD(Stochastic):
    """For every minibatch S: theta <- prox_{tau_k R}(theta - tau_k M(mean_S grad f_i(theta))), M the metric.

    Parameters
    ----------
    epochs : passes over the samples (an iteration).
    batch_size : samples in a minibatch.
    step : tau; "auto": 1e-3 for "adam", else 1 / (2 ell), ell the expected smoothness of the minibatches (a tenth of it with momentum 0.9).
    metric : "plain", "momentum" (0.9) or "adam" (its diagonal, also in the prox of separable R).
    schedule : "constant"; "sqrt", tau / sqrt(1 + k); "inverse", tau / (1 + k), k the passes made; "linear", to 2 % over the run.
    seed : of the orders and of dropout.

    The objective shown is the mean over the pass of the minibatches' losses, plus R at its end. A constant step <= 1 / (2 ell) reaches, at the rate 1 - tau mu, a ball of
    radius^2 2 tau sigma^2 / mu about the optimum, sigma^2 the gradients' variance there; falling steps reach the optimum.
    Sources: Gower, Loizou, Qian, Sailanbayev, Shulgin & Richtarik, ICML 2019; with the prox: Gorbunov, Hanzely & Richtarik, AISTATS 2020.
    """

    bounded = False

    def __init__(self, epochs=10, batch_size=32, step="auto", metric="plain", schedule="constant", seed=0, tolerance=0.0, max_seconds=float("inf")):
        super().__init__(epochs, batch_size, step, seed, tolerance, max_seconds)
        if metric not in METRICS:
            raise ValueError(f"SGD got metric={metric!r}; choose one of {METRICS}.")
        if schedule not in ("constant", "sqrt", "inverse", "linear"):
            raise ValueError(f"SGD got schedule={schedule!r}; choose 'constant', 'sqrt', 'inverse' or 'linear'.")
        self.metric, self.schedule = metric, schedule

    def start(self, problem):
        theta = problem.start_theta()
        share, auto = {"adam": None, "momentum": 0.05, "plain": 0.5}[self.metric], self.step_rule == "auto"
        if share and auto or self.metric == "plain" and problem.convex:        # a number is compared with the theorem's bound
            step = min(self._steps(problem, theta, lambda L, ell, n, b: share / ell).values())
        else:
            step = 1e-3 if auto else float(self.step_rule)
        return {"point": theta, "epoch": 0, "step": step, "metric": metric_start(self.metric, [theta[k] for k in problem.theta_names])}

    def step(self, problem, state):
        theta, names, epoch = {k: v.clone() for k, v in state["point"].items()}, problem.theta_names, state["epoch"]
        metric = {key: [v.clone() for v in values] for key, values in state["metric"].items()}
        leaves, functionals = [theta[k] for k in names], [problem.regularisers.get(k) for k in names]
        tau = state["step"] * {"constant": 1.0, "sqrt": (1 + epoch) ** -0.5, "inverse": 1 / (1 + epoch), "linear": max(0.02, 1 - epoch / self.max_iterations)}[self.schedule]
        total = torch.zeros((), dtype=torch.float64, device=leaves[0].device)
        for part, rows, batches in self._batches(problem, epoch):
            for s in batches:
                sub = part.restrict(s, seed=part.seed + int(s.start))
                loss, gradient = sub.explicit_gradient(theta)
                metric_step(self.metric, leaves, [gradient[k] for k in names], metric, tau)
                metric_prox(self.metric, leaves, functionals, metric, tau)
                total += loss * sub.samples
        objective = float(total) / problem.samples + float(problem.regularisation(theta))
        return {**state, "point": theta, "epoch": epoch + 1, "metric": metric}, {"objective": objective, **problem.metrics(theta)}
