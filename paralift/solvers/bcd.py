"""Block coordinate descent: PALM and iPALM sweeps over the blocks."""

from math import inf, isfinite
from typing import Literal

import torch

from ..arguments import Count, Extended, Positive, Seed
from ..notices import warn
from ..problems.problem import Linearisation
from .solver import NO_GRADIENT, NO_PROX, Solver
from .steps import check_step
from .stopping import Tolerance
from .storage import Storage

__all__ = ["BCD"]


class BCD(Solver):
    """For every group of blocks b, the others as they are now, with y_b = u_b + beta (u_b - u_b of the sweep before):
    u_b <- prox_{tau_b G_b}(y_b - tau_b grad_b F(y_b)), or u_b <- y_b - M_b^{-1} grad_b F(y_b) with the problem's majoriser M_b of the block's Hessian.

    Parameters
    ----------
    step : "auto" (M_b where there is one, as for the one-layer regression of a linear layer; else 1/L_b, the bound at the current point, halved at most 40 times until F
        lies below its quadratic model), "palm" (the same without M_b), "lipschitz" (1/L_b as it is), or a number: "auto" with that factor on M_b^{-1} and 1/L_b.
    order : "cyclic" (the problem's sweep order), "random" (a fresh order in every sweep, from `seed`), "red_black" (the problem's colours: all parameters, then every
        other layer's x; blocks of one colour do not couple, so they may be updated at once, by many workers, with the same result).
    inertia : beta, 0 (PALM) to 0.707 (iPALM); or "nesterov": beta = (t - 1)/t+, t+ = t + 1/3, t = 1 at first and again once <y - u+, u+ - u> > 0 in the metric of the steps.
    inner_steps : steps in a row on a block that has no majoriser.
    batch_size : samples in a group, in place of all at once; an iteration is then a pass over the groups, see below.
    tau : of the groups' proximal term.
    storage : a Storage, where the x of all samples are kept between the groups' turns: in bfloat16, or in files for data sets larger than memory.

    Groups of samples: for every group S, in a fresh order in every pass, a sweep on E_S(theta, x_S) + |theta - theta_k|^2 / (2 tau), from the forward pass x_S; the result is
    kept if it lies below E_S(theta_k, x_S) at the x_S of the pass before, and else the sweep is done from there, so it always lowers the group's energy. The x of all samples
    are kept and E is that of all: a pass that raises E is taken back and tau halved (theta moves by at most sqrt(2 tau E_S) a group, so small tau lowers E).

    With beta = 0 every sweep lowers E; limit points are critical where E is semialgebraic (Bolte, Sabach & Teboulle, Math. Program. 146, 2014; in a variable
    metric: Chouzenoux, Pesquet & Repetti, J. Global Optim. 66, 2016). On p blocks, E smooth and mu-strongly convex, a sweep lowers E - E* by
    1 - mu / (2 Lmax (1 + p L^2/Lmin^2)) or more (Beck & Tetruashvili, SIAM J. Optim. 23(4), 2013). With beta < 1/sqrt(2), G_b convex and tau_b <= 1/L_b,
    E(u_k) + sum_b |u_b - u_b of the sweep before|^2 / (2 tau_b) falls while the bounds do not grow (doc/methods/bcd.md); iPALM: Pock & Sabach, SIAM J. Imaging Sci. 9(4), 2016.
    Nesterov's weights are not proved for several blocks; they were the fastest on inversion (Xu & Yin, SIAM J. Imaging Sci. 6(3), 2013; O'Donoghue & Candes, 2015).
    """

    needs = (NO_GRADIENT, NO_PROX)

    def __init__(self, max_iterations: Count = 100, step: float | str = "auto", order: Literal["cyclic", "random", "red_black"] = "cyclic",
                 inertia: float | Literal["nesterov"] = 0.0, inner_steps: Count = 1, batch_size: Count | None = None, tau: Positive = 10.0, storage: Storage | None = None,
                 seed: Seed = 0, tolerance: float | Tolerance = 0.0, max_seconds: Extended = float("inf")):
        super().__init__(max_iterations, tolerance, max_seconds)
        self.step_size = check_step(step, "BCD", ("auto", "palm", "lipschitz"))
        if inertia != "nesterov" and (not isinstance(inertia, (int, float)) or not 0 <= inertia < 0.5**0.5):
            raise ValueError(f"BCD got inertia={inertia!r}; it needs a number in [0, 0.707), below 1/sqrt(2), up to which descent is proved, or 'nesterov'.")
        if batch_size is not None and inertia:
            raise ValueError(f"BCD got batch_size={batch_size} and inertia={inertia}; inertia goes with sweeps over all samples: leave one of them out.")
        if storage is not None and batch_size is None:
            raise ValueError(f"BCD got storage={storage!r} and no batch_size; storage needs groups of samples: give batch_size too.")
        self.shared = "blocks" if batch_size is None else None             # groups are visited one after the other
        self.storage = Storage() if storage is None else storage
        self.inner_steps, self.batch_size, self.tau = inner_steps, batch_size, float(tau)
        self.factor, self.order, self.inertia, self.seed = (1.0 if isinstance(step, str) else step), order, inertia, seed
        self.majorise, self.search = step not in ("palm", "lipschitz"), step != "lipschitz"
        if self.factor > 1:
            warn(f"BCD got step={step:g}, which is above 1, the largest factor on 1/L_b that is proved to descend; use step='auto'.")

    def check(self, problem):
        super().check(problem)
        if self.batch_size is not None and not (problem.samples and hasattr(problem, "start_theta")):
            raise TypeError(f"BCD(batch_size={self.batch_size}) cannot solve {type(problem).__name__}: it has no samples to group; use BCD() or PGD.")

    def start(self, problem):
        theta = () if self.batch_size is None else problem.start_theta()
        point = problem.start() if self.batch_size is None or not self._stores else self._stored_start(problem, theta)
        state = {"point": point, "previous": point if self.inertia else {}, "sweep": 0, **({"t": 1.0} if self.inertia == "nesterov" else {})}
        return state if self.batch_size is None else {**state, "tau": self.tau, "value": inf, "rho": dict(problem.rho), "rows": [k for k in point if k not in theta]}

    @property
    def _stores(self):
        return self.storage.dtype is not None or self.storage.folder is not None

    def _stored_start(self, problem, theta):
        """The forward pass, group by group, in the storage."""
        point = dict(theta)
        for rows in torch.arange(problem.samples, device=problem.inputs.device).split(self.batch_size):
            for k, v in problem.restrict(rows, theta).start().items():
                if k not in theta:
                    if k not in point:
                        point[k] = self.storage.empty((problem.samples, *v.shape[1:]), v)
                    point[k][rows[0]:rows[-1] + 1] = v
        return point

    def _draw(self, n, *counters):
        """A permutation of n things, from the seed and the counters."""
        number = self.seed
        for c in counters:
            number = (number * 1_000_003 + c) % 2**63
        return torch.randperm(n, generator=torch.Generator().manual_seed(number))

    def _turns(self, problem, sweep):
        """Lists of groups of blocks in their order; the groups of a list do not couple and are updated at once."""
        if self.order == "red_black":
            return problem.colours()
        groups = problem.sweep_order()
        return [[groups[i]] for i in (self._draw(len(groups), sweep).tolist() if self.order == "random" else range(len(groups)))]

    def step(self, problem, state):
        if self.batch_size is not None:
            return self._pass(problem, state)
        before, inertia, t = state["point"], self.inertia, {}
        if inertia == "nesterov":
            t = {"t": state["t"] + 1 / 3}
            inertia = (state["t"] - 1) / t["t"]
        point, residual, turned = self._sweep(problem, before, state["sweep"], state["previous"], inertia)
        if t and turned > 0:
            t = {"t": 1.0}
        new = {"point": point, "previous": before if self.inertia else {}, "sweep": state["sweep"] + 1, **t}
        return new, lambda: {"objective": float(problem.value(point)), "residual": residual(), **problem.metrics(point)}

    # ---- one sweep over the blocks
    def _sweep(self, problem, point, sweep, previous=None, inertia=0.0):
        """(point after a sweep, a function that gives the norm of its gradient maps, sum over the blocks of <y - u+, u+ - u> in the metric of the steps)."""
        point, squares, turned = dict(point), [], 0.0
        for groups in self._turns(problem, sweep):
            names = [k for group in groups for k in group]
            at = problem.extrapolate(previous, point, inertia, names) if inertia else point
            solves = [problem.majoriser(at, group) if self.majorise else None for group in groups]
            ready, rest = ([group for group, solve in zip(groups, solves) if (solve is None) == searched] for searched in (False, True))
            if ready:
                gradient = problem.gradient(at, [k for group in ready for k in group])
                squares.append(sum(problem.inners(gradient, gradient).values()))
                moved = {}
                for group, solve in zip(groups, solves):
                    if solve is not None:
                        change = solve(gradient)
                        moved.update({k: torch.sub(at[k], change[k], alpha=self.factor) for k in group})
                if inertia:
                    turned += self.factor * sum(problem.inners({k: gradient[k] for k in moved}, {k: v - point[k] for k, v in moved.items()}).values())
                point.update(moved)
            if rest:
                new, tau, square = self._proximal_steps(problem, at, rest)
                if inertia:
                    products = problem.inners({k: at[k] - v for k, v in new.items()}, {k: v - point[k] for k, v in new.items()})
                    turned += sum(v / tau[k] for k, v in products.items())
                point.update(new)
                squares.append(square)
        return point, lambda: sum(s() if callable(s) else s for s in squares) ** 0.5, turned

    def _proximal_steps(self, problem, at, groups):
        """(new blocks of groups that do not couple, their steps tau, the sum of |(new - old)/tau|^2 in the first step, or a function that gives it): proximal gradient steps, each
        group's cut until its part of F falls below its quadratic model."""
        names, maps, moved, new = [k for group in groups for k in group], {}, None, {}
        bounds = problem.lipschitz(at, names)
        tau = {k: self.factor / max(float(bounds[k]), 1e-12) if isfinite(bounds[k]) else 1.0 for k in names}
        for inner in range(self.inner_steps):
            lin, active = problem.linearise(at, names) if self.search else Linearisation(None, problem.gradient(at, names)), groups
            values = None if not self.search else [float(lin.value)] if len(groups) == 1 else problem.group_values(at, groups)
            for _ in range(40):
                own = [k for group in active for k in group]
                trial = problem.prox({k: torch.sub(at[k], lin.gradient[k], alpha=tau[k]) for k in own}, tau)
                new.update({k: trial[k] for k in own})
                if not self.search:
                    moved = moved or [(k, at[k], trial[k], tau[k]) for k in own]
                    break
                d = {k: trial[k] - at[k] for k in own}
                size = problem.inners(d, d)
                if inner == 0:
                    maps.update({k: size[k] / tau[k] ** 2 for k in own})
                here, slopes = problem.group_values({**at, **new}, active), problem.inners({k: lin.gradient[k] for k in own}, d)
                failed = []
                for group, value in zip(active, here):
                    old = values[groups.index(group)]
                    model = old + sum(slopes[k] + 0.5 / tau[k] * size[k] for k in group)
                    if not value <= model + 10 * torch.finfo(at[group[0]].dtype).eps * abs(old):
                        failed.append(group)
                        tau.update({k: 0.5 * tau[k] for k in group})
                active = failed
                if not active:
                    break
            at = {**at, **new}

        def square():
            d = {k: (after - before).div_(step) for k, before, after, step in moved}
            return sum(problem.inners(d, d).values())

        return new, tau, sum(maps.values()) if self.search else square

    # ---- one pass over groups of samples
    def _restrict(self, problem, point, rows, g, S, tau=inf):
        """The problem and the point of group g, the samples S; a group keeps its masks of dropout."""
        like = next(v for k, v in point.items() if k not in rows)
        own = {k: v.index_select(0, S.to(v.device)).to(like) if k in rows else v for k, v in point.items()}
        return problem.restrict(S, {k: v for k, v in point.items() if k not in rows}, tau, seed=self.seed * 7919 + g), own

    def _value(self, problem, point, rows, groups):
        """E, group by group."""
        parts = (self._restrict(problem, point, rows, g, S) for g, S in enumerate(groups))
        return sum(float(sub.value(own)) * len(S) for (sub, own), S in zip(parts, groups)) / problem.samples

    def _pass(self, problem, state):
        rows, tau, sweep, moving = state["rows"], state["tau"], state["sweep"], problem.buffers()
        groups = self._draw(problem.samples, 0).to(problem.inputs.device).tensor_split(-(-problem.samples // self.batch_size))            # the same in every pass
        value = state["value"] if sweep and state["rho"] == problem.rho else self._value(problem, state["point"], rows, groups)
        point = {k: self.storage.copy(v) if k in rows else v for k, v in state["point"].items()}
        for turn, g in enumerate(self._draw(len(groups), 1, sweep).tolist()):
            sub, own = self._restrict(problem, point, rows, g, groups[g], tau)
            new = self._sweep(sub, sub.start(), sweep * len(groups) + turn)[0]
            if not sub.value(new) <= sub.value(own):
                new = self._sweep(sub, own, sweep * len(groups) + turn)[0]
            for k, v in new.items():
                if k in rows:
                    point[k].index_copy_(0, groups[g].to(point[k].device), v.to(point[k]))
                else:
                    point[k] = v
        after = self._value(problem, point, rows, groups)
        if not after <= value:
            problem.set_buffers(moving)
            point, after, tau = state["point"], value, 0.5 * tau
        shown = {k: v for k, v in point.items() if k not in rows} if self._stores else point
        return {**state, "point": point, "sweep": sweep + 1, "tau": tau, "value": after, "rho": dict(problem.rho)}, {"objective": after, **problem.metrics(shown)}
