"""Proximal stochastic gradient descent on minibatches."""

from typing import Literal

import torch

from ..arguments import Count, Extended, Seed
from .minibatch_metrics import DEFAULT_STEPS, Metric, metric_prox, metric_start, metric_step
from .stochastic import Stochastic
from .stopping import Tolerance

Schedule = Literal["constant", "sqrt", "inverse", "linear"]
__all__ = ["SGD"]


class SGD(Stochastic):
    """For every minibatch S: theta <- prox_{tau_k R}(theta - tau_k M(mean_S grad f_i(theta))), M the metric.

    Parameters
    ----------
    epochs : passes over the samples (an iteration).
    batch_size : samples in a minibatch.
    step : tau; "auto": 1e-3 for "adam", 1e-2 for "adagrad", else 1 / (2 ell), ell the expected smoothness of the minibatches (a tenth of it with momentum 0.9).
    metric : "plain"; "momentum" (0.9); "adam" and "adagrad", with a diagonal H (for adagrad the root of the sum of all squared gradients):
        theta+ = argmin_u <d, u> + |u - theta|_H^2 / (2 tau) + R(u), d the gradient or Adam's mean of gradients. Where R is separable this is its prox with a
        step tau / H_ii per coordinate; for other R the scalar fall-back takes H = 1 in the prox, which keeps constraints but weighs R less.
    schedule : "constant"; "sqrt", tau / sqrt(1 + k); "inverse", tau / (1 + k), k the passes made; "linear", to 2 % over the run.
    seed : of the orders and of dropout.

    The objective shown is the mean over the pass of the minibatches' losses, plus R at its end. A constant step <= 1 / (2 ell) reaches, at the rate 1 - tau mu, a ball of
    radius^2 2 tau sigma^2 / mu about the optimum, sigma^2 the gradients' variance there; falling steps reach the optimum.
    "adagrad", convex f_i: sum_k E(f_k + R)(theta_k) - E* <= (D^2 / (2 tau) + tau) sum_j |(g_1j, ..., g_Kj)|, D the largest |theta_k - theta*|_sup: O(1/sqrt K) on average,
    for every step and without a bound on curvature. "adam" has no such theorem.
    Sources: Gower, Loizou, Qian, Sailanbayev, Shulgin & Richtarik, ICML 2019; with the prox: Gorbunov, Hanzely & Richtarik, AISTATS 2020; adagrad: Duchi, Hazan &
    Singer, J. Mach. Learn. Res. 12, 2011 (Theorem 5); prox in Adam's metric: Yun, Lozano & Yang, NeurIPS 2021; momentum: Gao, Rodomanov & Stich, ICML 2024.
    """

    bounded = False

    def __init__(self, epochs: Count = 10, batch_size: Count = 32, step: float | str = "auto", metric: Metric = "plain", schedule: Schedule = "constant", seed: Seed = 0,
                 tolerance: float | Tolerance = 0.0, max_seconds: Extended = float("inf")):
        super().__init__(epochs, batch_size, step, seed, tolerance, max_seconds)
        self.metric, self.schedule = metric, schedule

    def start(self, problem):
        theta = problem.start_theta()
        share, auto = {"momentum": 0.05, "plain": 0.5}.get(self.metric), self.step_size == "auto"
        if share and auto or self.metric == "plain" and problem.convex:        # a number is compared with the theorem's bound
            step = min(self._steps(problem, theta, lambda L, ell, n, b: share / ell).values())
        else:
            step = DEFAULT_STEPS[self.metric] if auto else float(self.step_size)
        return {"point": theta, "epoch": 0, "step": step, "metric": metric_start(self.metric, {k: theta[k] for k in problem.theta_names})}

    def step(self, problem, state):
        theta, names, epoch = {k: v.clone() for k, v in state["point"].items()}, problem.theta_names, state["epoch"]
        metric = {key: {k: v.clone() for k, v in values.items()} for key, values in state["metric"].items()}
        tau = state["step"] * {"constant": 1.0, "sqrt": (1 + epoch) ** -0.5, "inverse": 1 / (1 + epoch), "linear": max(0.02, 1 - epoch / self.max_iterations)}[self.schedule]
        total = torch.zeros((), dtype=torch.float64, device=problem.inputs.device)
        for part, rows, batches in self._batches(problem, epoch):
            for s in batches:
                sub = part.restrict(s, seed=part.seed + int(s.start))
                loss, gradient = sub.explicit_gradient(theta)
                metric_step(self.metric, names, theta, gradient, metric, tau)
                metric_prox(self.metric, names, theta, problem.regularisers, metric, tau)
                total += loss * sub.samples
        objective = float(total) / problem.samples + float(problem.regularisation(theta))
        return {**state, "point": theta, "epoch": epoch + 1, "metric": metric}, {"objective": objective, **problem.metrics(theta)}
