"""Sweeps on a minibatch: the explicit and the implicit step of the implicit stochastic gradient method."""

import math

import torch

__all__ = ["Sweeps"]


class Sweeps:
    """Part of `LiftedProblem`: backward sweeps from the forward pass."""

    def _evaluate_all(self, theta):
        """Forward pass that keeps every stage's local map: (inputs, z, pulls, activations)."""
        x, xs, zs, pulls, ps = self.inputs, [], [], [], []
        for stage in self.stages:
            z, pull = stage.evaluate(x, theta, self.seed, update_buffers=True, wrt_input=stage.index > 1, wrt_theta=not self._trained.isdisjoint(stage.theta))
            xs.append(x), zs.append(z), pulls.append(pull)
            if stage.penalty is not None and stage.index < self.depth:
                x = stage.penalty.activation(z)
                ps.append(x)
        return xs, zs, pulls, ps

    def explicit_gradient(self, theta):
        """(loss, {name: gradient}): one backward sweep x_l = argmin rho_l P_l(x_l, z_l) + S_l(x_l) + <rho_{l+1} A*_{l+1} r_{l+1}, x_l>, then the gradient
        of E_S in theta at the old theta and the forward x. The loss holds the S_l at the forward x too."""
        _, zs, pulls, ps = self._evaluate_all(theta)
        n = self.samples
        losses, r = self.loss.value_and_gradient(zs.pop(), self.targets)
        loss, gradient, weight = losses.sum() / n + self._activations_value(ps), {}, 1.0           # r is the residual without its weight
        for stage in reversed(self.stages):
            gx, own = pulls.pop()(r, weight / n)
            for name, g in own.items():
                gradient[name] = gradient[name] + g if name in gradient else g         # shared by two stages
            if stage.index > 1:
                penalty, rho, z, p = self.stages[stage.index - 2].penalty, self.rho[stage.index - 1], zs.pop(), ps.pop()
                x = penalty._sweep_x(z, p, gx, weight / rho)
                r, weight = penalty._gradient_z_at(x, z, p), rho
        return loss, gradient

    def _activations_value(self, ps):
        return sum(S(ps[l - 1]).sum() for l, S in self.extra.items()) / self.samples

    def implicit_step(self, theta, tau, sweeps):
        """(loss, {name: (theta - theta+) / tau}) with theta+ from `sweeps` PALM sweeps on E_S(theta, x) + |theta - theta_k|^2 / (2 tau)."""
        loss, point = self.implicit_point(theta, tau, sweeps)
        return loss, {name: (theta[name] - point[name]) / tau for name in self.theta_names}

    def implicit_energy(self, theta, tau, sweeps):
        """E_S(theta, x) + |theta - theta_k|^2 / (2 tau) after `sweeps` sweeps from the forward pass; `self` comes from restrict(..., theta, tau)."""
        return self.value(self.implicit_point(theta, tau, sweeps)[1])

    def implicit_point(self, theta, tau, sweeps):
        """(loss of the forward pass, point after `sweeps` sweeps from there)."""
        anchor, current = theta, dict(theta)
        xs, zs, pulls, ps = self._evaluate_all(theta)
        loss = self.loss.value(zs[-1], self.targets).sum() / self.samples + self._activations_value(ps)
        point = {**current, **{f"x{l + 1}": p for l, p in enumerate(ps)}}
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
                if not self._trained.isdisjoint(stage.theta):
                    self._theta_step(stage, point, anchor, x_in, z, r, own, tau)
                    z_new, pull = stage.evaluate(x_in, point, self.seed, wrt_input=l > 1, wrt_theta=False)
                    gx = pull(self._residual(stage, point, z_new))[0] if l > 1 else None
                if l > 1:
                    before = self.stages[l - 2]
                    slope = self._slope(stage)
                    mu = 1 / (slope * stage.input_norm_squared(x_in, point, self.seed, iterations=6)).clamp(min=1e-12)
                    z_own = before.forward(self._input(before, point), point, self.seed)
                    point[f"x{l - 1}"] = before.penalty._prox_x(x_in - mu * gx, z_own, mu * self.rho[l - 1])
        return loss, point

    def _theta_step(self, stage, point, anchor, x, z, r, own, tau):
        """theta_l: minimise the majorised regression rho_l P_l + |theta - anchor|^2 / (2 tau) [+ R]."""
        n, slope = self.samples, self._slope(stage)
        names = {inside: name for name, inside in stage.theta.items()}
        if stage.is_linear_layer and x.dim() == 2 and not any(name in self.regularisers for name in stage.theta) and self._trained.issuperset(stage.theta) and math.isfinite(slope):
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
            if name in self._trained:
                g = own[name] / n + (point[name] - anchor[name]) / tau
                v = point[name] - g / bound
                point[name] = self.regularisers[name]._prox(v, 1 / bound) if name in self.regularisers else v
