"""The implicit stochastic gradient method."""

import torch

from .metrics import DEFAULT_STEPS, METRICS, metric_prox, metric_start, metric_step
from .result import Status
from .solver import Solver
from .steps import check_step

__all__ = ["ISGM"]


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
    schedule : "constant" or "linear" (tau falls to 2 % over the `epochs`; resume with the same number to go on exactly).
    seed : of the order of the samples and of dropout; the same seed gives the same run.

    The history's "objective" is the mean over the pass of the loss before each step, plus R.
    On all samples the exact implicit step is the proximal point method: |theta_k - theta*| falls by 1/(1 + tau mu) where the loss of a linear model is mu-strongly convex.
    Sweep: x_l = argmin over x_l of the layer's penalty plus the next one's, linearised; theta_l by the majorised one-layer regression, which is an
    n x n solve for linear layers. Sources: Toulis & Airoldi, Ann. Statist. 45(4), 2017; Wang & Benning, JMLR 24(232), 2023.
    """

    needs = (("samples", "it has no samples to draw minibatches from; use PGD or BCD."),)

    def __init__(self, epochs=10, batch_size=128, step="auto", sweeps=1, metric="adam", inner=None, schedule="constant", seed=0, max_seconds=float("inf")):
        super().__init__(epochs, 0.0, max_seconds)
        if metric not in METRICS:
            raise ValueError(f"ISGM got metric={metric!r}; choose one of {METRICS}.")
        if schedule not in ("constant", "linear"):
            raise ValueError(f"ISGM got schedule={schedule!r}; choose 'constant' or 'linear'.")
        for name, value, least in (("batch_size", batch_size, 1), ("sweeps", sweeps, 1), ("seed", seed, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"ISGM got {name}={value!r}; it needs an integer >= {least}.")
        if inner is not None and (sweeps != 1 or not isinstance(inner, Solver)):
            raise ValueError(f"ISGM got inner={inner!r} and sweeps={sweeps}; inner needs a solver such as PGD(10) or BCD(3), and takes the place of the sweeps.")
        self.step_size = DEFAULT_STEPS.get(metric, 0.1) if check_step(step, "ISGM") == "auto" else step
        self.batch_size, self.sweeps, self.inner, self.metric, self.schedule, self.seed = batch_size, sweeps, inner, metric, schedule, seed

    def check(self, problem):
        super().check(problem)
        for method in ("implicit_step", "explicit_gradient", "start_theta"):
            if not hasattr(problem, method):
                raise TypeError(f"ISGM cannot solve {type(problem).__name__}: it needs a problem with parameters and samples, such as LiftedTraining; use PGD or BCD.")
        if not problem.theta_names:
            raise ValueError("every parameter is frozen, and ISGM updates parameters only; free one, or use PGD or BCD, which find x.")

    def start(self, problem):
        theta = problem.start_theta()
        return {"point": theta, "epoch": 0, "metric": metric_start(self.metric, [theta[name] for name in problem.theta_names])}

    def _inner_step(self, sub, theta, tau):
        """(loss, (theta - theta+) / tau) with theta+ from the inner solver."""
        result = self.inner.solve(sub, progress=False)
        if result.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        x = result.x
        return sub.loss_at(theta), {name: (theta[name] - x[name]) / tau for name in sub.theta_names}

    def step(self, problem, state):
        theta = {name: v.clone() for name, v in state["point"].items()}
        names = problem.theta_names
        leaves, functionals = [theta[name] for name in names], [problem.regularisers.get(name) for name in names]
        metric = {key: [v.clone() for v in values] for key, values in state["metric"].items()}
        epoch, n = state["epoch"], problem.samples
        batches = max(1, n // self.batch_size)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)).to(problem.inputs.device)
        explicit = self.sweeps == 1 and self.inner is None
        total = torch.zeros((), device=leaves[0].device)
        for k in range(batches):
            done = (epoch * batches + k) / (self.max_iterations * batches)
            tau = self.step_size * (max(0.02, 1 - done) if self.schedule == "linear" else 1.0)
            sub = problem.restrict(order[k * self.batch_size:(k + 1) * self.batch_size], theta, tau, seed=self.seed * 7919 + epoch * batches + k)
            if explicit:
                loss, gradient = sub.explicit_gradient(theta)
            else:
                sub.regularisers = problem.regularisers if self.metric == "plain" else {}
                loss, gradient = sub.implicit_step(theta, tau, self.sweeps) if self.inner is None else self._inner_step(sub, theta, tau)
            metric_step(self.metric, leaves, [gradient[name] for name in names], metric, tau)
            if explicit or self.metric != "plain":
                metric_prox(self.metric, leaves, functionals, metric, tau)
            total += loss
        objective = float(total) / batches + float(sum(R(theta[name]) for name, R in problem.regularisers.items()))
        new = {"point": theta, "epoch": epoch + 1, "metric": metric}
        return new, {"objective": objective, **problem.metrics(theta)}
