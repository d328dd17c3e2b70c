"""The implicit stochastic gradient method."""

import math
from collections.abc import Callable

import torch

from ..arguments import Count, Extended, Seed
from .minibatch_metrics import DEFAULT_STEPS, Metric, metric_prox, metric_start, metric_step
from .result import Status
from .solver import Solver
from .steps import check_step

__all__ = ["ISGM"]

SCHEDULES = {"constant": lambda done: 1.0, "linear": lambda done: max(0.02, 1 - done), "cosine": lambda done: 0.51 + 0.49 * math.cos(math.pi * min(1.0, done))}


class ISGM(Solver):
    """For every minibatch S: approximately minimise E_S(theta, x) + |theta - theta_k|^2 / (2 tau) over theta and x_S, from the forward pass.

    Parameters
    ----------
    epochs : passes over the samples (an iteration is a pass).
    batch_size : samples in a minibatch; what is left over at the end of a pass is other samples in every pass.
    step : tau; "auto": 1e-3 for the metric "adam", 1e-2 for "adagrad", 0.1 otherwise.
    sweeps : 1 is the explicit step (one backward sweep, the gradient of theta at the old theta; it costs one back-propagation);
        more sweeps approach the implicit step, which stays stable at large tau.
    inner : a solver, in place of the sweeps: every minibatch's problem goes to `inner.solve(subproblem)`, for instance `inner=PGD(10)`.
    metric : "adam", "adagrad", "momentum" (0.9) or "plain", as for SGD; after several sweeps or an inner solver it acts on the increment of the implicit step.
        Regularisers are part of the implicit step for "plain", and a prox in the metric after it otherwise (per coordinate where they are separable).
    schedule : tau's factor: "constant", "linear" or "cosine" (to 2 % over the `epochs`; resume with the same number to go on exactly), or a function of the
        fraction done, from 0 to 1, for instance one that warms up.
    weight_decay : theta <- (1 - tau weight_decay) theta before each step, for weights but biases and normalisations, as AdamW does.
    average : 0.999, say, for the result's parameters to be a mean of the iterates: mean <- a mean + (1 - a) theta, a = min(average, (1 + k) / (10 + k)) after k minibatches.
    accumulate : into how many parts, one after the other, a minibatch's gradient is cut: less memory, the same step where no normalisation couples samples.
    seed : of the order of the samples and of dropout; the same seed gives the same run.

    The history's "objective" is the mean over the pass of the loss before each step, plus R.
    On all samples the exact implicit step is the proximal point method: |theta_k - theta*| falls by 1/(1 + tau mu) where the loss of a linear model is mu-strongly convex.
    Sweep: x_l = argmin over x_l of the layer's penalty plus the next one's, linearised; theta_l by the majorised one-layer regression, which is an
    n x n solve for linear layers. Sources: Toulis & Airoldi, Ann. Statist. 45(4), 2017; Wang & Benning, JMLR 24(232), 2023.
    """

    needs = (("samples", "it has no samples to draw minibatches from; use PGD or BCD."),)

    def __init__(self, epochs: Count = 10, batch_size: Count = 128, step: float | str = "auto", sweeps: Count = 1, metric: Metric = "adam", inner: Solver | None = None,
                 schedule: str | Callable[[float], float] = "constant", weight_decay: float = 0.0, average: float = 0.0, accumulate: Count = 1, seed: Seed = 0,
                 max_seconds: Extended = float("inf")):
        super().__init__(epochs, 0.0, max_seconds)
        if not callable(schedule) and schedule not in SCHEDULES:
            raise ValueError(f"ISGM got schedule={schedule!r}; choose one of {tuple(SCHEDULES)}, or a function of the fraction done, from 0 to 1.")
        first = schedule(0.0) if callable(schedule) else 1.0
        if not isinstance(first, (int, float)) or not 0 <= first < math.inf:
            raise ValueError(f"ISGM got a schedule that is {first!r} at 0; it needs a function from the fraction done to a factor >= 0 of the step.")
        for name, value, most in (("weight_decay", weight_decay, math.inf), ("average", average, 1.0)):
            if not isinstance(value, (int, float)) or not 0 <= value < most:
                raise ValueError(f"ISGM got {name}={value!r}; it needs a number >= 0{'' if most == math.inf else ' and below 1, for instance 0.999'}.")
        if inner is not None and (sweeps != 1 or any(name == "samples" for name, _ in inner.needs)):
            raise ValueError(f"ISGM got inner={inner!r} and sweeps={sweeps}; inner needs a solver such as PGD(10) or BCD(3), and takes the place of the sweeps.")
        explicit = sweeps == 1 and inner is None
        if accumulate > 1 and not explicit:
            raise ValueError(f"ISGM got accumulate={accumulate} and several sweeps; an implicit step is no sum over parts of a minibatch: leave one of them out.")
        self.step_size = DEFAULT_STEPS.get(metric, 0.1) if check_step(step, "ISGM") == "auto" else step
        self.factor = schedule if callable(schedule) else SCHEDULES[schedule]
        self.shared = "minibatches" if explicit else None             # an implicit step is no sum over samples
        self.batch_size, self.sweeps, self.inner, self.metric, self.explicit, self.seed = batch_size, sweeps, inner, metric, explicit, seed
        self.weight_decay, self.average, self.accumulate = weight_decay, average, accumulate

    def check(self, problem):
        super().check(problem)
        for method in ("implicit_step", "explicit_gradient", "start_theta"):
            if not hasattr(problem, method):
                raise TypeError(f"ISGM cannot solve {type(problem).__name__}: it needs a problem with parameters and samples, such as LiftedTraining; use PGD or BCD.")
        if not problem.theta_names:
            raise ValueError("every parameter is frozen, and ISGM updates parameters only; free one, or use PGD or BCD, which find x.")

    def start(self, problem):
        theta = problem.start_theta()
        state = {"point": theta, "epoch": 0, "metric": metric_start(self.metric, problem.kept({name: theta[name] for name in problem.theta_names}))}
        return {**state, "average": {name: theta[name].clone() for name in problem.theta_names}} if self.average else state

    def answer(self, state):
        return {**state["point"], **state["average"]} if self.average else state["point"]

    def _inner_step(self, sub, theta, tau):
        """(loss, (theta - theta+) / tau) with theta+ from the inner solver."""
        result = self.inner.solve(sub, progress=False)
        if result.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        x = result.x
        return sub.loss_at(theta), {name: (theta[name] - x[name]) / tau for name in sub.theta_names}

    def _implicit_pass(self, problem, theta, batches, update, step):
        """`explicit_pass` with the implicit step in the place of the gradient."""
        total = 0.0
        for k, (rows, seed) in enumerate(batches):
            tau = step(k)
            sub = problem.draw(rows, theta, tau, seed=seed)
            sub.regularisers = problem.regularisers if self.metric == "plain" else {}
            loss, gradient = sub.implicit_step(theta, tau, self.sweeps) if self.inner is None else self._inner_step(sub, theta, tau)
            update(k, gradient)
            total = total + loss
        return total

    def step(self, problem, state):
        theta = {name: v.clone() for name, v in state["point"].items()}
        metric = {key: {name: v.clone() for name, v in values.items()} for key, values in state["metric"].items()}
        mean = {name: v.clone() for name, v in state["average"].items()} if self.average else {}
        epoch, n = state["epoch"], problem.samples
        batches = max(1, n // self.batch_size)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)).to(problem.inputs.device)
        cut = lambda k: order[k * self.batch_size:(k + 1) * self.batch_size]
        minibatches = [(cut(k), self.seed * 7919 + epoch * batches + k) for k in range(batches)]
        factor = lambda k: self.factor((epoch * batches + k) / (self.max_iterations * batches))
        step = lambda k: self.step_size * factor(k)

        def update(k, gradient):
            names, tau = [name for name in problem.theta_names if name in gradient], step(k)
            if self.weight_decay:
                torch._foreach_mul_([theta[name] for name in names if theta[name].dim() > 1], 1 - tau * self.weight_decay)
            metric_step(self.metric, names, theta, gradient, metric, tau)
            if self.explicit or self.metric != "plain":
                metric_prox(self.metric, names, theta, problem.regularisers, metric, tau)
            if mean:
                done = epoch * batches + k
                torch._foreach_lerp_([mean[name] for name in names], [theta[name] for name in names], 1 - min(self.average, (1 + done) / (10 + done)))

        total = problem.explicit_pass(theta, minibatches, update, self.accumulate, factor) if self.explicit else self._implicit_pass(problem, theta, minibatches, update, step)
        objective = float(total) / batches + float(problem.regularisation(theta))
        new = {"point": theta, "epoch": epoch + 1, "metric": metric, **({"average": mean} if mean else {})}
        return new, {"objective": objective, **problem.metrics(self.answer(new))}
