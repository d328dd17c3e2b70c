"""Finite sums F(theta) = (1/n) sum_i f_i(theta): per-sample gradients kept as factors, never as copies of the weights."""

import math

import torch

__all__ = ["FiniteSum"]


def _take(a, samples):
    return a.index_select(0, samples) if torch.is_tensor(samples) else a[samples]


class FiniteSum:
    """What a lifted problem gives a stochastic method (mixed into `LiftedProblem`).

    Where A_l is affine in theta_l, sample i's gradient is the product of its residual r_l^i and its input x_{l-1}^i (an outer product for a linear layer). A table of
    them needs n (d_in + d_out) numbers a stage; the first stage's inputs are the data themselves and are not stored again. With one stage this is the exact finite
    sum of classical problems (lasso, logistic regression); with more, r and x come from the forward pass and one backward sweep, as in `explicit_gradient`.
    """

    # ---- per-sample factors
    def factors(self, theta, samples=slice(None), value=False):
        """{l: (r_l, x_{l-1})} for some samples (a slice or an index tensor), a row a sample; None stands for the data at the first stage.
        With value=True the pair (mean loss, factors)."""
        data, y = _take(self.inputs, samples), _take(self.targets, samples)
        x, xs, zs, pulls, ps = data, [], [], [], []
        for stage in self.stages:
            z, pull = stage.evaluate(x, theta, self.seed, wrt_input=stage.index > 1, wrt_theta=False)
            xs.append(x), zs.append(z), pulls.append(pull)
            if stage.index < self.depth:
                x = stage.penalty.activation(z)
                ps.append(x)
        r, found = self.loss.gradient(zs[-1], y), {}
        for stage in reversed(self.stages):
            l = stage.index
            if self._trained(stage):
                found[l] = (r, None if l == 1 else xs[l - 1])
            if l > 1:
                before, rho = self.stages[l - 2], self.rho[l - 1]
                g = pulls[l - 1](r)[0]
                p = self._backward_x(before, zs[l - 2], g if rho == 1 else g / rho)
                r = before.penalty._gradient_z_at(p, zs[l - 2], ps[l - 2])
                r = r if rho == 1 else r * rho
        return (self.loss.value(zs[-1], y).mean(), found) if value else found

    def expand(self, factors, samples=slice(None), scale=None):
        """{name: scale * sum_i r_l^i (x) x_{l-1}^i}, the factors' rows belonging to `samples`; by default scale = 1 / rows, the mean gradient."""
        gradient = {}
        for l, (r, x) in factors.items():
            stage = self.stages[l - 1]
            x = _take(self.inputs, samples) if x is None else x
            _, pull = stage.evaluate(x, self._anywhere, self.seed, wrt_input=False) if not stage.is_linear_layer else (None, None)
            s = 1 / len(r) if scale is None else scale
            gradient.update(pull(r, s)[1] if pull else _linear_gradient(stage, r, x, s))
        return {name: gradient[name] for name in self.theta_names}

    def _trained(self, stage):
        return not set(self.theta_names).isdisjoint(stage.theta)

    @property
    def _anywhere(self):
        """Some theta: the gradient of an affine stage does not depend on it."""
        return self._initial

    # ---- bounds
    def sample_lipschitz(self, theta, chunk=8192):
        """{name: max_i Lipschitz constant of grad f_i in the stage's parameters}, a bound for one linear layer; of a deeper network it holds the forward x fixed,
        and for other layers it is estimated on a chunk's two largest inputs."""
        largest = {}
        for begin in range(0, self.samples, chunk):
            part = self.restrict(slice(begin, begin + chunk))
            x = part.inputs
            for stage in self.stages:
                l, slope = stage.index, self.loss.lipschitz if stage.index == self.depth else self.rho[stage.index] * stage.penalty.lipschitz_z
                if self._trained(stage):
                    if not stage.is_linear_layer:
                        top = x.flatten(1).norm(dim=1).topk(min(2, len(x))).indices
                        size = part.restrict(top)._theta_norm(stage, {**theta, f"x{l - 1}": x[top]})
                    else:
                        places = x[0].numel() // x.shape[-1] if "bias" in stage.theta.values() else 0
                        size = float(x.flatten(1).square().sum(1).max()) + places
                    largest.update({name: max(slope * size, largest.get(name, 0.0)) for name in stage.theta if name in self.theta_names})
                x = stage.penalty.activation(stage.forward(x, theta, self.seed)) if l < self.depth else None
        return largest

    def mean_lipschitz(self, theta):
        """{name: Lipschitz constant of grad F}, from power iterations on the inputs of each stage at the forward pass."""
        bounds = self.lipschitz(self.forward(theta), self.theta_names)
        return {name: bounds[name] for name in self.theta_names}

    # ---- values
    def mean_loss(self, theta, chunk=8192):
        """(1/n) sum_i of the forward network's losses, a 0-d tensor; at most `chunk` samples at a time."""
        total = 0.0
        for begin in range(0, self.samples, chunk):
            part = self.restrict(slice(begin, begin + chunk))
            x = part.inputs
            for stage in self.stages:
                z = stage.forward(x, theta, self.seed)
                x = stage.penalty.activation(z) if stage.index < self.depth else z
            total = total + self.loss.value(x, part.targets).sum(dtype=torch.float64)
        return total / self.samples

    def regularisation(self, theta):
        return sum((R(theta[name]).double() for name, R in self.regularisers.items()), torch.zeros((), dtype=torch.float64, device=self.inputs.device))

    @property
    def convex(self):
        """One linear layer under a convex loss and convex regularisers."""
        return self.depth == 1 and self.stages[0].is_linear_layer and self.loss.convex and all(R.convex for R in self.regularisers.values())

    # ---- tables
    def table_numbers(self):
        """Numbers in a gradient table: n (d_in + d_out) a stage, without the data themselves; None where some stage allows none."""
        if self.table_obstacle():
            return None
        size = lambda l: math.prod(self.stages[l - 1].space)
        return self.samples * sum(size(s.index) + (size(s.index - 1) if s.index > 1 else 0) for s in self.stages if self._trained(s))

    def table_obstacle(self):
        """Why per-sample factors do not exist, in a sentence; "" where they do: the gradient of a stage must not depend on its own theta, nor a sample's on other samples."""
        generator = torch.Generator().manual_seed(0)
        noise = {name: v + torch.randn(v.shape, generator=generator).to(v) for name, v in self._anywhere.items()}
        x = self.inputs[:2]
        for stage in self.stages:
            z = stage.forward(x, self._anywhere, self.seed)
            if self._trained(stage) and not stage.is_linear_layer:
                r = torch.randn(z.shape, generator=generator).to(z)
                whole, other = (stage.evaluate(x, t, self.seed, wrt_input=False)[1](r)[1] for t in (self._anywhere, noise))
                try:
                    single = [stage.evaluate(x[i:i + 1], self._anywhere, self.seed, wrt_input=False)[1](r[i:i + 1])[1] for i in range(len(x))]
                except (RuntimeError, ValueError):
                    single = None
                close = lambda a, b: float((a - b).abs().max()) <= 1e-3 * float(a.abs().max()) + 1e-12
                if stage.random or single is None or not all(close(g, other[k]) and close(g, sum(s[k] for s in single)) for k, g in whole.items()):
                    kinds = [type(m).__name__ for m in stage.module.modules() if not list(m.children())]
                    return (f"stage {stage.index} ({', '.join(kinds)}) is not affine in its parameters sample by sample (as with BatchNorm, Dropout or two layers without an "
                            "activation between them), so its gradients cannot be kept as residuals and inputs; use SVRG, which needs no table.")
            x = stage.penalty.activation(z) if stage.index < self.depth else None
        return ""


def _linear_gradient(stage, r, x, scale):
    names = {inside: name for name, inside in stage.theta.items()}
    rows, flat = r.reshape(-1, r.shape[-1]), x.reshape(-1, x.shape[-1])
    G = torch.addmm(rows.new_zeros(1, 1), rows.T, flat, beta=0, alpha=scale)
    return {names["weight"]: G, **({names["bias"]: rows.sum(0).mul_(scale)} if "bias" in names else {})}
