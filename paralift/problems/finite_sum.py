"""Finite sums F(theta) = (1/n) sum_i f_i(theta): per-sample gradients kept as factors, never as copies of the weights."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from .problem import Point

__all__ = ["FiniteSum", "chunks", "slices", "take"]


def chunks(n, size):
    """Slices of at most `size` of n things, whose lengths differ by one at most."""
    return slices(n, max(1, -(-n // size)))


def slices(n, m):
    """At most m slices of n things, whose lengths differ by one at most."""
    m = max(1, min(m, n))
    return [slice(i * n // m, (i + 1) * n // m) for i in range(m)]


def take(a, samples):
    """Some samples, a slice or an index tensor, of a tensor that has them on its first axis."""
    return a[samples] if type(samples) is slice else a.index_select(0, samples)


class FiniteSum:
    """What a lifted problem gives a stochastic method (mixed into `LiftedProblem`).

    Where A_l is affine in theta_l, sample i's gradient is the product of its residual r_l^i and its input x_{l-1}^i (an outer product for a linear layer). A table of
    them needs n (d_in + d_out) numbers a stage; the first stage's inputs are the data themselves and are not stored again. With one stage this is the exact finite
    sum of classical problems (lasso, logistic regression); with more, r and x come from the forward pass and one backward sweep, as in `explicit_gradient`.
    """

    # ---- per-sample factors
    def factors(self, theta: Point, samples: torch.Tensor | slice = slice(None), value: bool = False) -> Any:
        """{l: (r_l, x_{l-1})} for some samples (a slice or an index tensor), a row a sample; None stands for the data at the first stage.
        With value=True the pair (mean loss, factors)."""
        x, y, kept, p = take(self.inputs, samples), take(self.targets, samples), [], None       # a chain: table_obstacle refuses other graphs
        if self.depth == 1 and self.stages[0].is_linear_layer:                 # a linear model, in as few calls as possible
            z = self.stages[0].forward(x, theta)
            found = {1: (self.loss.gradient(z, y), None)}
            return (self.loss.value(z, y).mean(), found) if value else found
        for stage in self.stages:
            z, pull = stage.evaluate(x, theta, self.seed, wrt_input=stage.index > 1, wrt_theta=False)
            kept.append((stage, x, z, pull))
            x = stage.penalty.activation(z) if stage.index < self.depth else None
        losses, r, found, g, weight = self.loss.value(z, y) if value else None, self.loss.gradient(z, y), {}, None, 1.0
        while kept:
            stage, x, z, pull = kept.pop()
            l = stage.index
            if l < self.depth:
                r, weight = stage.penalty._sweep(z, p, g, weight, self.rho[l])
            if self.trains(stage):
                found[l] = (r if weight == 1 else r * weight, None if l == 1 else x)
            g, p = pull(r)[0] if l > 1 else None, x
        return (losses.mean(), found) if value else found

    def expand(self, factors: dict, samples: torch.Tensor | slice = slice(None), scale: float | None = None) -> Point:
        """{name: scale * sum_i r_l^i (x) x_{l-1}^i}, the factors' rows belonging to `samples`; by default scale = 1 / rows, the mean gradient."""
        gradient = {}
        if self.depth == 1 and self.stages[0].is_linear_layer:
            r, x = factors[1]
            gradient = self.stages[0].linear_gradient(r, take(self.inputs, samples), 1 / len(r) if scale is None else scale)
            factors = {}
        for l, (r, x) in factors.items():
            stage = self.stages[l - 1]
            x = take(self.inputs, samples) if x is None else x
            s = 1 / len(r) if scale is None else scale                      # the gradient of an affine stage is the same at any theta
            own = stage.linear_gradient(r, x, s) if stage.is_linear_layer else stage.evaluate(x, self.initial, self.seed, wrt_input=False)[1](r, s)[1]
            for name, g in own.items():
                gradient[name] = gradient[name] + g if name in gradient else g
        return {name: gradient[name] for name in self.theta_names}

    def own_rows(self, rows: torch.Tensor, batches: Sequence[slice]) -> tuple[torch.Tensor, list[int]]:
        """(rows of a table for the samples of all minibatches, one after the other, and how many each has); `batches` are slices of the samples `rows`."""
        return rows, [s.stop - s.start for s in batches]

    @property
    def own_samples(self) -> int:
        """Rows of a table."""
        return self.samples

    # ---- bounds
    def sample_lipschitz(self, theta: Point, chunk: int = 8192) -> dict[str, float]:
        """{name: max_i Lipschitz constant of grad f_i in the stage's parameters}, a bound for one linear layer; of a deeper network it holds the forward x fixed,
        and for other layers it is estimated on a chunk's two largest inputs."""
        largest = {}
        for rows in chunks(self.samples, chunk):
            part = self.restrict(rows)
            point = part.forward(theta)
            for stage in self.stages:
                slope, x = self.slope(stage), part._input(stage, point)
                if self.trains(stage):
                    if not stage.is_linear_layer:
                        first = x[0] if isinstance(x, tuple) else x
                        top = first.flatten(1).abs().double().norm(dim=1).topk(min(2, len(first))).indices
                        size = part.restrict(top)._theta_norm(stage, {**theta, **{f"x{p}": v[top] for p, v in stage.pairs(x)}})
                    else:
                        places = x[0].numel() // x.shape[-1] if "bias" in stage.names else 0
                        size = float(x.flatten(1).square().sum(1).max()) + places
                    largest.update({name: max(slope * size, largest.get(name, 0.0)) for name in stage.theta if name in self.theta_names})
        return largest

    def mean_lipschitz(self, theta: Point) -> dict[str, float]:
        """{name: Lipschitz constant of grad F}, from power iterations on the inputs of each stage at the forward pass."""
        bounds = self.lipschitz(self.forward(theta), self.theta_names)
        return {name: bounds[name] for name in self.theta_names}

    # ---- values
    def mean_loss(self, theta: Point, chunk: int = 8192) -> torch.Tensor:
        """(1/n) sum_i of the forward network's losses, a 0-d tensor; at most `chunk` samples at a time."""
        total = 0.0
        for rows in chunks(self.samples, chunk):
            part = self.restrict(rows)
            total = total + part.loss_at(theta).double() * part.samples
        return total / self.samples

    def regularisation(self, theta: Point) -> torch.Tensor:
        return sum((R(theta[name]).double() for name, R in self.regularisers.items()), torch.zeros((), dtype=torch.float64, device=self.inputs.device))

    @property
    def convex(self) -> bool:
        """One linear layer under a convex loss and convex regularisers."""
        return self.depth == 1 and self.stages[0].is_linear_layer and self.loss.convex and all(R.convex for R in self.regularisers.values())

    # ---- tables
    def table_numbers(self) -> int | None:
        """Numbers in a gradient table: n (d_in + d_out) a stage, without the data themselves; None where some stage allows none."""
        if self.table_obstacle():
            return None
        size = lambda l: math.prod(self.stages[l - 1].space)
        return self.samples * sum(size(s.index) + (size(s.index - 1) if s.index > 1 else 0) for s in self.stages if self.trains(s))

    def table_obstacle(self) -> str:
        """Why per-sample factors do not exist, in a sentence; "" where they do: the gradient of a stage must not depend on its own theta, nor a sample's on other samples."""
        for stage in self.stages:
            if stage.parents != (stage.index - 1,):
                return f"stage {stage.index} ({stage.label}) has the parents {stage.parents}, and a table of residuals and inputs is for chains; use SVRG, which needs no table."
        generator = torch.Generator().manual_seed(0)
        noise = {name: v + torch.randn(v.shape, generator=generator).to(v) for name, v in self.initial.items()}
        x = self.inputs[:2]
        for stage in self.stages:
            z = stage.forward(x, self.initial, self.seed)
            if self.trains(stage) and not stage.is_linear_layer:
                r = torch.randn(z.shape, generator=generator).to(z)
                whole, other = (stage.evaluate(x, t, self.seed, wrt_input=False)[1](r)[1] for t in (self.initial, noise))
                try:
                    single = [stage.evaluate(x[i:i + 1], self.initial, self.seed, wrt_input=False)[1](r[i:i + 1])[1] for i in range(len(x))]
                except (RuntimeError, ValueError):
                    single = None
                close = lambda a, b: float((a - b).abs().max()) <= 1e-3 * float(a.abs().max()) + 1e-12
                if stage.random or single is None or not all(close(g, other[k]) and close(g, sum(s[k] for s in single)) for k, g in whole.items()):
                    kinds = [type(m).__name__ for m in stage.module.modules() if not list(m.children())]
                    return (f"stage {stage.index} ({', '.join(kinds)}) is not affine in its parameters sample by sample (as with BatchNorm, Dropout or two layers without an "
                            "activation between them), so its gradients cannot be kept as residuals and inputs; use SVRG, which needs no table.")
            x = stage.penalty.activation(z) if stage.index < self.depth else None
        return ""
