"""Sweeps on a minibatch: the explicit and the implicit step of the implicit stochastic gradient method."""

import math
from collections.abc import Sequence
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import torch

from ..operators.penalties import LiftedBregman
from ..operators.potentials import activation_
from .loans import LARGE, Loan, Pieces
from .problem import Point
from .stages import Stage

__all__ = ["Sweeps"]


class Sweeps:
    """Part of `LiftedProblem`: backward sweeps from the forward pass, over all stages or, in streams over several workers, over some consecutive ones."""

    def evaluate_stages(self, theta: Point, recall: Any = None, pieces: Any = None, stages: Sequence[Stage] | None = None,
                        values: dict[int, torch.Tensor] | None = None, gather: bool = False) -> tuple[dict, dict]:
        """Forward pass that keeps every stage's local map: {l: (x_in, z, pull)} and {l: sigma(z)}; 0 holds the data. With `recall`, what the backward sweep does without is
        dropped on the way: the local maps ask recall(l) for sigma(z) where it is computed again. `pieces` {l: Pieces} is filled where all pulls on x_l are on parts of it.
        `stages`: some consecutive ones only, which go on from `values` {l: x_l} of earlier ones. `gather`: the local maps of linear layers leave their parameters out."""
        values, kept, dropped, plan = {0: self.inputs, **(values or {})}, {}, set(), self._plan
        for stage in self.stages if stages is None else stages:
            x = values[stage.parents[0]] if len(stage.parents) == 1 else tuple(values[p] for p in stage.parents)
            loans = {i: Loan(values[p], partial(recall, p) if p in plan.again else None, pieces.get(p)) for i, p in enumerate(stage.parents) if p in dropped}
            z, pull = stage.evaluate(x, theta, self.seed, update_buffers=True, wrt_input=tuple(p > 0 for p in stage.parents),
                                     wrt_theta=self.trains(stage) and not (gather and stage.is_linear_layer), loans=loans)
            kept[stage.index] = (x if recall is None else None, z, pull)
            if stage.index < self.depth:
                values[stage.index] = stage.penalty.activation(z)
            del x, loans
            if recall is not None:
                if stage.index in plan.dropped and z.numel() >= LARGE:
                    dropped.add(stage.index)
                    if stage.index not in plan.again:
                        kept[stage.index] = (None, None, pull)
                    if stage.index in plan.apart:
                        pieces[stage.index] = Pieces(z)
                for p in dropped.intersection(stage.parents):
                    if plan.last_use[p] == stage.index:
                        del values[p]
        return kept, values

    @cached_property
    def _plan(self):
        """What a backward sweep does with the stages' outputs; sets of stages, but for
        last_use : {l: the last stage that takes x_l}.
        dropped : the sweep does without their output or computes it again; their children's local maps are torch's, which keep what they need.
        again : those of them whose sigma(z) is computed again from z, so that only one of both is in memory; in_place : by the activation in place.
        apart : those passed on by the identity whose children all take them apart, by the same call.
        """
        potential = lambda l: self.stages[l - 1].penalty.potential
        closed = {s.index for s in self.stages[:-1] if s.index not in self.extra and (s.penalty.passes or hasattr(s.penalty.potential, "_activation"))}
        dropped = closed - {p for s in self.stages if s.is_linear_layer for p in s.parents}
        again = {l for l in dropped if not self.stages[l - 1].penalty.passes}
        calls = {}
        for s in self.stages:
            for i, p in enumerate(s.parents):
                calls.setdefault(p, []).append(s.pieces.get(i))
        return SimpleNamespace(
            last_use={p: s.index for s in self.stages for p in s.parents}, dropped=dropped, again=again,
            in_place={l for l in again if hasattr(potential(l), "_activation_") and isinstance(self.stages[l - 1].penalty, LiftedBregman)},
            apart={l for l in dropped - again if len(calls[l]) > 1 and None not in calls[l] and len(set(calls[l])) == 1})

    def explicit_gradient(self, theta: Point) -> tuple[torch.Tensor, Point]:
        """(loss, {name: gradient}): one backward sweep x_l = argmin rho_l P_l(x_l, z_l) + S_l(x_l) + <pull of the children, x_l>, the pull of child c being
        rho_c A*_c r_c, then the gradient of E_S in theta at the old theta and the forward x. The loss holds the S_l at the forward x too."""
        def recall(l):
            if l not in values:
                z, penalty = kept[l][1], self.stages[l - 1].penalty
                buffers = free.get((z.numel(), z.dtype)) if z.is_contiguous() else None           # memory that was sigma(z) of a later stage: new memory costs more than the copy
                values[l] = activation_(penalty.potential, buffers.pop().view(z.shape).copy_(z)) if buffers and l in plan.in_place else penalty.activation(z)
            return values[l]

        pieces, free, plan = {}, {}, self._plan
        kept, values = self.evaluate_stages(theta, recall, pieces)
        loss, r = self.loss_and_residual(kept)
        loss = loss + self._activations_value(values)
        gradient, _ = self.sweep_back(self.stages, kept, values, {}, r, recall=recall, free=free, pieces=pieces)
        return loss, gradient

    def loss_and_residual(self, kept: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean loss, its gradient in z_L for each sample)."""
        losses, r = self.loss.value_and_gradient(kept[self.depth][1], self.targets)
        return losses.sum() / self.samples, r

    def sweep_back(self, stages: Sequence[Stage], kept: dict, values: dict, pulls: dict, r: torch.Tensor | None = None, n: int | None = None, recall: Any = None,
                   free: dict | None = None, pieces: dict | None = None, feedback: Any = None, gathered: dict | None = None) -> tuple[Point, dict]:
        """({name: gradient}, pulls) of a sweep over consecutive `stages`, backwards, from the pulls {l: (g, weight)} on their outputs, the pull on x_l being weight * g, and the
        loss's residual r where they end the network; what is left in `pulls` is for earlier stages. Gradients are of means over n samples; `recall`, `free` and `pieces` are
        `evaluate_stages`'s. `feedback` = (c, theta now, rows): c (sigma(z_l at theta now) - sigma(z_l)) is added to the residual of the first rows in the gradient of theta_l.
        `gathered` {l: [..]} takes linear layers' parts of `Stage.gathered_gradient`, in the place of their gradients."""
        n, gradient, plan, weight = self.samples if n is None else n, {}, self._plan, 1.0      # r is the residual without its weight
        pieces = {l: q for l, q in (pieces or {}).items() if q.calls is not None}
        for stage in reversed(stages):
            l, trained, moved, behind = stage.index, self.trains(stage), None, None
            apart = gathered is not None and trained and stage.is_linear_layer
            if l < self.depth:
                p = recall(l) if recall is not None and l in plan.again else values.get(l)
                x, z, pull = kept.pop(l)
                values.pop(l, None)
                if feedback is not None and trained and not apart:
                    moved = self._moved(stage, x, p, *feedback[1:])
                g, weight = pieces.pop(l).finish() if l in pieces else pulls.pop(l)
                r, weight = stage.penalty._sweep(z, p, g, weight, self.rho[l], pull.fresh)
                if feedback is not None and apart:
                    behind = (feedback[2], feedback[0] * self.rho[l] / weight, p)
                if free is not None and l in plan.in_place and p.numel() >= LARGE:
                    free.setdefault((p.numel(), p.dtype), []).append(p)
                del p, z, g
            else:
                x, _, pull = kept.pop(l)
            for p in pieces.keys() & set(stage.parents):
                pieces[p].begin(weight)
            if apart:
                gathered.setdefault(l, []).append((r, x, weight / n, behind))
            gx, own = pull(r, weight / n) if moved is None else pull(r, weight / n, moved.mul_(feedback[0] * self.rho[l] / weight))
            for name, g in own.items():
                gradient[name] = gradient[name] + g if name in gradient else g         # shared by two stages
            for p, g in stage.pairs(gx):
                if p not in pieces:
                    pulls[p] = (g, weight) if p not in pulls else _joined(*pulls[p], g, weight)
            r = x = gx = g = own = pull = behind = None                              # freed before the next stage's sweep
        return gradient, pulls

    def _moved(self, stage, x, p, theta, rows):
        """sigma(z_l) at another theta, minus p, of the first `rows` samples."""
        few = tuple(v[:rows] for v in x) if isinstance(x, tuple) else x[:rows]
        return stage.penalty.activation(stage.forward(few, theta, self.seed)).sub_(p[:rows])

    def _activations_value(self, values):
        return sum(S(values[l]).sum() for l, S in self.extra.items()) / self.samples

    def implicit_step(self, theta: Point, tau: float, sweeps: int) -> tuple[torch.Tensor, Point]:
        """(loss, {name: (theta - theta+) / tau}) with theta+ from `sweeps` PALM sweeps on E_S(theta, x) + |theta - theta_k|^2 / (2 tau)."""
        loss, point = self.implicit_point(theta, tau, sweeps)
        return loss, {name: (theta[name] - point[name]) / tau for name in self.theta_names}

    def implicit_energy(self, theta: Point, tau: float, sweeps: int) -> torch.Tensor:
        """E_S(theta, x) + |theta - theta_k|^2 / (2 tau) after `sweeps` sweeps from the forward pass; `self` comes from restrict(..., theta, tau)."""
        return self.value(self.implicit_point(theta, tau, sweeps)[1])

    def implicit_point(self, theta: Point, tau: float, sweeps: int) -> tuple[torch.Tensor, Point]:
        """(loss of the forward pass, point after `sweeps` sweeps from there): backwards through the stages, a proximal step in x_l, then one in theta_l."""
        anchor = theta
        kept, values = self.evaluate_stages(theta)
        loss = self.loss.value(kept[self.depth][1], self.targets).sum() / self.samples + self._activations_value(values)
        point = {**theta, **{f"x{l}": p for l, p in values.items() if l}}
        for sweep in range(sweeps):
            pulls = {}                                             # {l: (gradient in x_l of the children's terms, bound on its slope)}
            for stage in reversed(self.stages):
                l = stage.index
                x_in, wanted, trained = self._input(stage, point), tuple(p > 0 for p in stage.parents), self.trains(stage)
                # in the first sweep theta_l and the parents' x are still those of the forward pass
                _, z, pull = kept.pop(l) if sweep == 0 else (x_in, *stage.evaluate(x_in, point, self.seed, wrt_input=wanted, wrt_theta=trained))
                if l < self.depth:
                    gx, slope = pulls.pop(l)
                    mu = 1 / slope.clamp(min=1e-12)
                    point[f"x{l}"] = stage.penalty._prox_x(point[f"x{l}"] - mu * gx, z, mu * self.rho[l])
                r = self._residual(stage, point, z)
                gx, own = pull(r)
                if trained:
                    self._theta_step(stage, point, anchor, x_in, z, r, own, tau)
                    if any(wanted):
                        z, pull = stage.evaluate(x_in, point, self.seed, wrt_input=wanted, wrt_theta=False)
                        gx = pull(self._residual(stage, point, z))[0]
                if any(wanted):
                    bound = self.slope(stage) * stage.input_norm_squared(x_in, point, self.seed, iterations=6)
                    for p, g in stage.pairs(gx):
                        pulls[p] = (g, bound) if p not in pulls else (pulls[p][0] + g, pulls[p][1] + bound)
        return loss, point

    def _theta_step(self, stage, point, anchor, x, z, r, own, tau):
        """theta_l: minimise the majorised regression rho_l P_l + |theta - anchor|^2 / (2 tau) [+ R]."""
        n, slope = self.samples, self.slope(stage)
        names = stage.names
        if stage.is_linear_layer and x.dim() == 2 and not any(name in self.regularisers for name in stage.theta) and self.trained.issuperset(stage.theta) and math.isfinite(slope):
            a = tau / n
            z_anchor = stage.forward(x, anchor)
            wide = torch.float32 if x.element_size() == 2 else x.dtype              # half precision has no factorisation
            u = x.to(wide)
            K = torch.addmm(torch.eye(len(x), dtype=wide, device=x.device), u, u.T, alpha=a * slope)
            if "bias" in names:
                K += a * slope
            S = torch.cholesky_solve((r + slope * (z_anchor - z)).to(wide), torch.linalg.cholesky_ex(K)[0]).to(x.dtype)
            point[names["weight"]] = torch.addmm(anchor[names["weight"]], S.T, x, alpha=-a)
            if "bias" in names:
                point[names["bias"]] = anchor[names["bias"]] - a * S.sum(0)
            return
        bound = slope * self._theta_norm(stage, point) / n + 1 / tau if math.isfinite(slope) else 1 / tau
        for name in stage.theta:
            if name in self.trained:
                g = own[name] / n + (point[name] - anchor[name]) / tau
                v = point[name] - g / bound
                point[name] = self.regularisers[name]._prox(v, 1 / bound) if name in self.regularisers else v


def _joined(g, weight, h, other):
    """(u, w) with w u = weight g + other h; neither is overwritten (a stage may hand the same tensor to two parents)."""
    return (g + h, weight) if weight == other else (torch.add(h, g, alpha=weight / other), other)
