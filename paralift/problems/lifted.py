"""The lifted problem: E(theta, x) over the parameters and every layer's output, for one set of samples."""

import copy
import math

import torch

from ..operators.potentials import activation
from .finite_sum import FiniteSum
from .problem import Linearisation, Problem

__all__ = ["LiftedProblem"]


class LiftedProblem(FiniteSum, Problem):
    """E(theta, x) = (1/n) sum_i [ loss(z_L, y) + sum_{l<L} rho_l P_l(x_l, z_l) + S_l(x_l) ] + R(theta) [+ |theta - anchor|^2 / (2 tau)].

    Blocks: the network's parameters under their own names, and "x1" .. "x{L-1}" with the samples on the first axis.
    `F` holds all but the potentials Psi_l, S_l and R, which have proxes. `anchor` and `tau` make it the subproblem of an implicit step.
    """

    def __init__(self, stages, loss, inputs, targets, rho, regularisers, extra, anchor=None, tau=math.inf, seed=0):
        self.stages, self.loss, self.inputs, self.targets = stages, loss, inputs, targets
        self.rho, self.regularisers, self.extra = rho, regularisers, extra
        self.anchor, self.tau, self.seed = anchor, tau, seed
        self.samples = len(inputs)
        self.theta_names = [name for s in stages for name in s.theta]
        self.depth = len(stages)

    # ---- subproblems
    def restrict(self, samples, anchor=None, tau=math.inf, seed=0):
        """The same problem on some samples (an index tensor or slice), with |theta - anchor|^2 / (2 tau) added."""
        new = copy.copy(self)
        take = (lambda a: a.index_select(0, samples)) if torch.is_tensor(samples) else (lambda a: a[samples])
        new.inputs, new.targets, new.anchor, new.tau, new.seed = take(self.inputs), take(self.targets), anchor, tau, seed
        new.samples = len(new.inputs)
        return new

    # ---- points
    def forward(self, theta, update_buffers=False):
        """The forward pass: {"x1": ..}, a consistent point for the parameters `theta`."""
        point, x = dict(theta), self.inputs
        for stage in self.stages[:-1]:
            x = point[f"x{stage.index}"] = stage.penalty.activation(stage.forward(x, point, self.seed, update_buffers))
        return point

    def _input(self, stage, point):
        return self.inputs if stage.index == 1 else point[f"x{stage.index - 1}"]

    def _residual(self, stage, point, z):
        """rho_l dP_l/dz (the loss's gradient for the last stage), per sample."""
        if stage.index == self.depth:
            return self.loss.gradient(z, self.targets)
        r = stage.penalty._gradient_z(point[f"x{stage.index}"], z)
        rho = self.rho[stage.index]
        return r if rho == 1 else rho * r

    # ---- the contract
    def linearise(self, point, blocks=None):
        n = self.samples
        wanted = None if blocks is None else set(blocks)
        value, gradient = 0.0, {}
        for stage in self.stages:
            l = stage.index
            x_in, own = self._input(stage, point), f"x{l}"
            need_theta = [name for name in stage.theta if wanted is None or name in wanted]
            need_in = l > 1 and (wanted is None or f"x{l - 1}" in wanted)
            z, pull = stage.evaluate(x_in, point, self.seed, wrt_input=need_in, wrt_theta=bool(need_theta))
            if l == self.depth:
                value = value + self.loss.value(z, self.targets).sum() / n
            else:
                x, P, rho = point[own], stage.penalty, self.rho[l]
                value = value + rho * P._smooth_value(x, z).sum() / n
                if wanted is None or own in wanted:
                    gradient[own] = P._gradient_x(x, z) * (rho / n)
            if need_theta or need_in:
                gx, gtheta = pull(self._residual(stage, point, z))
                gradient.update({name: gtheta[name] / n for name in need_theta})
                if need_in:
                    key = f"x{l - 1}"
                    gradient[key] = gradient[key] + gx / n if key in gradient else gx / n
        if self.anchor is not None:
            for name in self.theta_names:
                d = point[name] - self.anchor[name]
                value = value + d.square().sum() / (2 * self.tau)
                if name in gradient:
                    gradient[name] = gradient[name] + d / self.tau
        return Linearisation(value, gradient)

    def nonsmooth_value(self, point):
        value = torch.zeros((), dtype=self.inputs.dtype if self.inputs.is_floating_point() else torch.float32, device=self.inputs.device)
        for stage in self.stages[:-1]:
            x = point[f"x{stage.index}"]
            value = value + self.rho[stage.index] * stage.penalty.nonsmooth(x).sum() / self.samples
            if stage.index in self.extra:
                value = value + self.extra[stage.index](x).sum() / self.samples
        for name, R in self.regularisers.items():
            value = value + R(point[name])
        return value

    def prox(self, point, steps):
        new = {}
        for name, v in point.items():
            if name in self.regularisers:
                v = self.regularisers[name]._prox(v, steps[name])
            elif name[0] == "x" and name[1:].isdigit():
                l = int(name[1:])
                v = self._potential_prox(self.stages[l - 1], v, steps[name] / self.samples)
            new[name] = v
        return new

    def _potential_prox(self, stage, v, tau):
        """prox of tau (rho Psi + S): exact where one of them is absent, or where both proxes compose (a separable S that is a multiple of L1 or
        an indicator, after Psi); checked when the problem is built."""
        v = stage.penalty.nonsmooth._prox(v, tau * self.rho[stage.index])
        return self.extra[stage.index]._prox(v, tau) if stage.index in self.extra else v

    def sweep_order(self):
        """Backwards through the network: x_{l}, then theta_l, as in a backward sweep."""
        order = []
        for stage in reversed(self.stages):
            if stage.theta:
                order.append(tuple(stage.theta))
            if stage.index > 1:
                order.append((f"x{stage.index - 1}",))
        return order

    def lipschitz(self, point, blocks=None):
        bounds, n = {}, self.samples
        for stage in self.stages:
            l = stage.index
            own = 0.0 if l == self.depth else self.rho[l] * stage.penalty.curvature
            if l < self.depth and (blocks is None or f"x{l}" in blocks):
                bounds[f"x{l}"] = bounds.get(f"x{l}", 0.0) + own / n
            weight = self.loss.lipschitz if l == self.depth else self.rho[l] * stage.penalty.lipschitz_z
            if l > 1 and (blocks is None or f"x{l - 1}" in blocks):
                norm = float(stage.input_norm_squared(self._input(stage, point), point, self.seed))
                bounds[f"x{l - 1}"] = bounds.get(f"x{l - 1}", 0.0) + weight * norm / n
            if stage.theta and (blocks is None or any(name in blocks for name in stage.theta)):
                bound = weight * self._theta_norm(stage, point) / n + 1 / self.tau
                bounds.update({name: bound for name in stage.theta})
        return bounds

    def _theta_norm(self, stage, point):
        """|J_theta|^2 summed over the samples: |[X, 1]|^2 for a linear layer; the squared Frobenius bound through the residual elsewhere."""
        x = self._input(stage, point)
        if not stage.is_linear_layer:
            z, pull = stage.evaluate(x, point, self.seed, wrt_input=False)
            r = torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=torch.Generator(z.device).manual_seed(0))
            ratio = 0.0
            for _ in range(6):                                    # power iteration on J J* by pull and jvp
                _, g = pull(r)
                size = math.sqrt(sum(float(v.square().sum()) for v in g.values())) or 1.0
                direction = {inside: g[name] / size for name, inside in stage.theta.items()}
                local = stage._local(point)
                _, r = torch.func.jvp(lambda p: stage._call_module(p, x, self.seed, False), (local,), (direction,))
                ratio = float(r.square().sum())
            return 1.2 * ratio
        flat = x.reshape(-1, x.shape[-1])
        v = torch.ones(flat.shape[1], dtype=flat.dtype, device=flat.device)
        bias = float("bias" in stage.theta.values())
        c = flat.new_full((), bias)
        for _ in range(12):                                       # power iteration on [X, 1]^T [X, 1], or X^T X without a bias
            size = torch.sqrt(v.square().sum() + c.square()).clamp(min=1e-30)
            w = flat @ (v / size) + c / size
            v, c = flat.T @ w, bias * w.sum()
        return 1.1 * float(torch.sqrt(v.square().sum() + c.square()))

    # ---- minibatch steps (the implicit stochastic gradient method)
    def _evaluate_all(self, theta):
        """Forward pass that keeps every stage's local map: (inputs, z, pulls, activations)."""
        x, xs, zs, pulls, ps = self.inputs, [], [], [], []
        trained = set(self.theta_names)
        for stage in self.stages:
            z, pull = stage.evaluate(x, theta, self.seed, update_buffers=True, wrt_input=stage.index > 1, wrt_theta=any(n in trained for n in stage.theta))
            xs.append(x), zs.append(z), pulls.append(pull)
            if stage.penalty is not None and stage.index < self.depth:
                x = stage.penalty.activation(z)
                ps.append(x)
        return xs, zs, pulls, ps

    def explicit_gradient(self, theta):
        """(loss, {name: gradient}): one backward sweep x_l = argmin rho_l P_l(x_l, z_l) + S_l(x_l) + <rho_{l+1} A*_{l+1} r_{l+1}, x_l>, then the gradient
        of E_S in theta at the old theta and the forward x."""
        _, zs, pulls, ps = self._evaluate_all(theta)
        n = self.samples
        losses, r = self.loss.value_and_gradient(zs[-1], self.targets)
        loss, gradient = losses.sum() / n, {}
        for stage in reversed(self.stages):
            l = stage.index
            gx, own = pulls[l - 1](r, 1 / n)
            gradient.update(own)
            if l > 1:
                before, rho = self.stages[l - 2], self.rho[l - 1]
                x = self._backward_x(before, zs[l - 2], gx if rho == 1 else gx / rho)
                r = before.penalty._gradient_z_at(x, zs[l - 2], ps[l - 2])
                r = r if rho == 1 else r * rho
        return loss, gradient

    def _backward_x(self, stage, z, g):
        """argmin_x P(x, z) + S(x)/rho + <g, x>: for penalties |x|^2/2 - <x, t(z)> + N(x) that is the activation's own prox of t(z) - g."""
        P = stage.penalty
        v = P._target(z) - g
        x = activation(P.nonsmooth, v) if P.curvature == 1 else P.nonsmooth._prox(v, 1.0)
        return self.extra[stage.index]._prox(x, 1 / self.rho[stage.index]) if stage.index in self.extra else x

    def implicit_step(self, theta, tau, sweeps):
        """(loss, {name: (theta - theta+) / tau}) with theta+ from `sweeps` PALM sweeps on E_S(theta, x) + |theta - theta_k|^2 / (2 tau)."""
        loss, point = self._palm(theta, tau, sweeps)
        return loss, {name: (theta[name] - point[name]) / tau for name in self.theta_names}

    def implicit_energy(self, theta, tau, sweeps):
        """E_S(theta, x) + |theta - theta_k|^2 / (2 tau) after `sweeps` sweeps from the forward pass; `self` comes from restrict(..., theta, tau)."""
        return self.value(self._palm(theta, tau, sweeps)[1])

    def _palm(self, theta, tau, sweeps):
        anchor, current = theta, dict(theta)
        xs, zs, pulls, ps = self._evaluate_all(theta)
        loss = self.loss.value(zs[-1], self.targets).sum() / self.samples
        point = {**current, **{f"x{l + 1}": p for l, p in enumerate(ps)}}
        trained = set(self.theta_names)
        for sweep in range(sweeps):
            for stage in reversed(self.stages):
                l = stage.index
                x_in = self._input(stage, point)
                if sweep == 0:
                    z, pull = zs[l - 1], pulls[l - 1]          # theta and x_{l-1} are still those of the forward pass
                else:
                    z, pull = stage.evaluate(x_in, point, self.seed, wrt_input=l > 1, wrt_theta=True)
                r = self._residual(stage, point, z)
                gx, own = pull(r)
                if any(name in trained for name in stage.theta):
                    self._theta_step(stage, point, anchor, x_in, z, r, own, tau)
                    z_new, pull = stage.evaluate(x_in, point, self.seed, wrt_input=l > 1, wrt_theta=False)
                    gx = pull(self._residual(stage, point, z_new))[0] if l > 1 else None
                if l > 1:
                    before = self.stages[l - 2]
                    slope = self.loss.lipschitz if l == self.depth else self.rho[l] * stage.penalty.lipschitz_z
                    mu = 1 / (slope * stage.input_norm_squared(x_in, point, self.seed, iterations=6)).clamp(min=1e-12)
                    z_own = before.forward(self._input(before, point), point, self.seed)
                    v = x_in - mu * gx
                    new = before.penalty._prox_x(v, z_own, mu * self.rho[l - 1])
                    point[f"x{l - 1}"] = self.extra[l - 1]._prox(new, mu) if l - 1 in self.extra else new
        return loss, point

    def _theta_step(self, stage, point, anchor, x, z, r, own, tau):
        """theta_l: minimise the majorised regression rho_l P_l + |theta - anchor|^2 / (2 tau) [+ R]."""
        n, l = self.samples, stage.index
        slope = self.loss.lipschitz if l == self.depth else self.rho[l] * stage.penalty.lipschitz_z
        names = {inside: name for name, inside in stage.theta.items()}
        trained = set(self.theta_names)
        if stage.is_linear_layer and x.dim() == 2 and not any(name in self.regularisers for name in stage.theta) and trained.issuperset(stage.theta) and math.isfinite(slope):
            a = tau / n
            z_anchor = stage.forward(x, anchor)
            K = torch.addmm(torch.eye(len(x), dtype=x.dtype, device=x.device), x, x.T, alpha=a * slope)
            if "bias" in names:
                K += a * slope
            S = torch.cholesky_solve(r + slope * (z_anchor - z), torch.linalg.cholesky_ex(K)[0])
            point[names["weight"]] = torch.addmm(anchor[names["weight"]], S.T, x, alpha=-a)
            if "bias" in names:
                point[names["bias"]] = anchor[names["bias"]] - a * S.sum(0)
            return
        bound = slope * self._theta_norm(stage, point) / n + 1 / tau if math.isfinite(slope) else 1 / tau
        for name in stage.theta:
            if name in trained:
                g = own[name] / n + (point[name] - anchor[name]) / tau
                v = point[name] - g / bound
                point[name] = self.regularisers[name]._prox(v, 1 / bound) if name in self.regularisers else v
