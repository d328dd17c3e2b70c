"""The lifted problem: E(theta, x) over the parameters and every layer's output, for one set of samples."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch

from ..arguments import Seed
from ..operators.functional import Functional
from ..operators.module import batch_norms
from ..operators.operator import push_forward
from .finite_sum import FiniteSum
from .losses import Loss
from .problem import Linearisation, Point, Problem
from .stages import Stage
from .sweeps import Sweeps

__all__ = ["LiftedProblem"]


class LiftedProblem(Sweeps, FiniteSum, Problem):  # type: ignore[override]
    """E(theta, x) = (1/n) sum_i [ loss(z_L, y) + sum_{l<L} rho_l P_l(x_l, z_l) + S_l(x_l) ] + R(theta) [+ |theta - anchor|^2 / (2 tau)].

    Blocks: the network's parameters under their own names, and "x1" .. "x{L-1}" with the samples on the first axis.
    `F` holds all but the potentials Psi_l, S_l and R, which have proxes (the penalty of stage l holds S_l / rho_l: `Penalty.plus`).
    `anchor` and `tau` make it the subproblem of an implicit step.
    """

    least_samples = 1            # that normalisations need at a time
    validation: Any = None       # (inputs, targets) that `metrics` looks at
    lowest = 1                   # number of the first unknown x; 0 where the input is one too (`LiftedInversion`)

    def __init__(self, stages: Sequence[Stage], loss: Loss, inputs: torch.Tensor, targets: torch.Tensor, rho: dict[int, float], regularisers: dict[str, Functional],
                 extra: dict[int, Functional], frozen: Iterable[str] = (), anchor: Point | None = None, tau: float = math.inf, seed: Seed = 0,
                 initial: Any = None):
        self.stages, self.loss, self.inputs, self.targets = stages, loss, inputs, targets
        self.rho, self.regularisers, self.extra, self.frozen = rho, regularisers, extra, set(frozen)
        self.anchor, self.tau, self.seed, self.initial = anchor, tau, seed, initial
        self.samples, self.depth, self._kept = len(inputs), len(stages), {}

    @cached_property
    def theta_names(self) -> list[str]:
        """The trained parameters; a shared one once."""
        return list(dict.fromkeys(name for s in self.stages for name in s.theta if name not in self.frozen))

    @cached_property
    def _trained(self):
        return set(self.theta_names)

    @property
    def normalised(self) -> bool:
        """Whether a normalisation couples the samples."""
        return bool(batch_norms(self.network))  # type: ignore[attr-defined]

    # ---- subproblems
    def restrict(self, samples: torch.Tensor | slice, anchor: Point | None = None, tau: float = math.inf, seed: int = 0) -> "LiftedProblem":
        """The same problem on some samples (an index tensor or slice), with |theta - anchor|^2 / (2 tau) added."""
        take = (lambda a: a.index_select(0, samples)) if torch.is_tensor(samples) else (lambda a: a[samples])
        inputs = take(self.inputs)
        self._check_size(len(inputs))
        sub = LiftedProblem(self.stages, self.loss, inputs, take(self.targets), self.rho, self.regularisers, self.extra, self.frozen, anchor, tau, seed, self.initial)
        sub.least_samples, sub._plan, sub.theta_names, sub._trained = self.least_samples, self._plan, self.theta_names, self._trained
        return sub

    def _check_size(self, samples):
        if samples < self.least_samples:
            raise ValueError(f"{samples} sample at a time was asked for, and a BatchNorm with one value a channel has no variance; use at least {self.least_samples} samples "
                             "in every minibatch (a larger batch_size, a smaller accumulate), or put GroupNorm or LayerNorm in its place.")

    # ---- points
    def start(self):
        """The forward pass at the anchor: a consistent point, where every penalty but the loss is zero. Normalisation buffers move here, once."""
        return self.forward(self.anchor, update_buffers=True)

    def forward(self, theta: Point, update_buffers: bool = False) -> Point:
        """The forward pass: {"x1": ..}, a consistent point for the parameters `theta`."""
        point = dict(theta)
        for stage in self.stages[:-1]:
            z = self._z(stage, point) if stage.is_linear_layer else stage.forward(self._input(stage, point), point, self.seed, update_buffers)
            point[f"x{stage.index}"] = stage.penalty.activation(z)  # type: ignore[union-attr]
        return point

    def loss_at(self, theta: Point) -> torch.Tensor:
        """The mean loss of the forward network."""
        point, last = self.forward(theta), self.stages[-1]
        return self._stage_value(last, point, self._z(last, point)) / self.samples

    def penalty_residuals(self, point: Point) -> dict[int, float]:
        """{l: |x_l - sigma(z_l)| / |sigma(z_l)|}: how far the lifted unknowns are from the forward network."""
        residuals = {}
        for stage in self.stages[:-1]:
            p = stage.penalty.activation(self._z(stage, point))  # type: ignore[union-attr]
            residuals[stage.index] = float((point[f"x{stage.index}"] - p).norm() / p.norm().clamp(min=1e-30))
        return residuals

    def _input(self, stage, point):
        """What the stage acts on: its parent's x (or the data), a tuple for several parents."""
        if len(stage.parents) == 1:
            return point[f"x{stage.parents[0]}"] if stage.parents[0] >= self.lowest else self.inputs
        return tuple(point[f"x{p}"] if p >= self.lowest else self.inputs for p in stage.parents)

    def _residual(self, stage, point, z):
        """rho_l dP_l/dz (the loss's gradient for the last stage), per sample."""
        if stage.index == self.depth:
            return self.loss.gradient(z, self.targets)
        r = stage.penalty._gradient_z(point[f"x{stage.index}"], z)
        rho = self.rho[stage.index]
        return r if rho == 1 else rho * r

    # ---- the contract
    def _touched(self, blocks):
        """(stage, its wanted parameters, for each parent whether its x is wanted, x_l wanted) of the stages whose term depends on `blocks` (None: all)."""
        for stage in self.stages:
            l, trained = stage.index, self._trained
            theta = [name for name in stage.theta if (name in trained if blocks is None else name in blocks)]
            wanted = tuple(p >= self.lowest and (blocks is None or f"x{p}" in blocks) for p in stage.parents)
            need_out = l < self.depth and (blocks is None or f"x{l}" in blocks)
            if theta or need_out or any(wanted):
                yield stage, theta, wanted, need_out

    def _stage_value(self, stage, point, z):
        """The sum over the samples of the stage's term in F."""
        l = stage.index
        return self.loss.value(z, self.targets).sum() if l == self.depth else self.rho[l] * stage.penalty._smooth_value(point[f"x{l}"], z).sum()

    def _z(self, stage, point):
        """z_l, of a linear layer kept until its input or theta_l changes (torch counts the changes of every tensor)."""
        if not stage.is_linear_layer:
            return stage.forward(self._input(stage, point), point, self.seed)
        parts = (self._input(stage, point), *(point[name] for name in stage.theta))
        key = [(t, t._version) for t in parts]
        old, z = self._kept.get(stage.index, ((), None))
        if len(old) != len(key) or any(a is not b or i != j for (a, i), (b, j) in zip(old, key)):
            z = stage.forward(parts[0], point, self.seed)
            self._kept[stage.index] = (key, z)
        return z

    def smooth_value(self, point, blocks=None):
        value = sum(self._stage_value(stage, point, self._z(stage, point)) for stage, *_ in self._touched(blocks)) / self.samples
        return value + self._proximity(point, blocks) if self.anchor is not None else value

    def _proximity(self, point, blocks=None):
        """|theta - anchor|^2 / (2 tau) over the parameters in `blocks` (None: all)."""
        return sum((point[name] - self.anchor[name]).square().sum() for name in self.theta_names if blocks is None or name in blocks) / (2 * self.tau)

    def _evaluate(self, stage, point, wanted, theta):
        """z_l and its local map."""
        if stage.is_linear_layer:
            return self._z(stage, point), stage.pull_linear(self._input(stage, point), point, wanted[0], theta)
        return stage.evaluate(self._input(stage, point), point, self.seed, wrt_input=wanted, wrt_theta=theta)

    def _terms(self, stage, point, theta, wanted, need_out, n, value=True):
        """(sum over the samples of the stage's term in F, or 0 without `value`, [(block, its part of the gradient of the mean over n samples)]), as `_touched` asks."""
        l = stage.index
        z, pull = self._evaluate(stage, point, wanted, bool(theta))
        parts = [(f"x{l}", stage.penalty._gradient_x(point[f"x{l}"], z) * (self.rho[l] / n))] if need_out else []
        if theta or any(wanted):
            gx, gtheta = pull(self._residual(stage, point, z), 1 / n)
            parts += [(name, gtheta[name]) for name in theta] + [(f"x{p}", g / n) for p, g in stage.pairs(gx)]
        return self._stage_value(stage, point, z) if value else 0.0, parts

    def gradient(self, point, blocks=None):
        return self.linearise(point, blocks, value=False).gradient

    def linearise(self, point, blocks=None, value=True):
        total, gradient = 0.0, {}
        for touched in self._touched(blocks):
            term, parts = self._terms(touched[0], point, *touched[1:], self.samples, value)
            total = total + term
            for name, g in parts:
                gradient[name] = gradient[name] + g if name in gradient else g
        total = total / self.samples
        if self.anchor is not None:
            total = total + self._proximity(point, blocks)
            for name in self._trained & gradient.keys():
                gradient[name] = gradient[name] + (point[name] - self.anchor[name]) / self.tau
        return Linearisation(total, gradient)

    def nonsmooth_value(self, point):
        value = torch.zeros((), dtype=self.inputs.dtype if self.inputs.is_floating_point() else torch.float32, device=self.inputs.device)
        for l in range(self.lowest, self.depth):
            value = value + self.block_value(l, point[f"x{l}"]) / self.samples
        for name, R in self.regularisers.items():
            value = value + R(point[name])
        return value

    def _potential(self, l):
        """(weight, functional with a prox): what G holds of a sample's x_l."""
        return self.rho[l], self.stages[l - 1].penalty.nonsmooth

    def block_value(self, l: int, x: torch.Tensor) -> torch.Tensor:
        """The sum over the samples of what G holds of x_l."""
        weight, f = self._potential(l)
        return weight * f(x).sum()

    def prox(self, point, steps):
        new = {}
        for name, v in point.items():
            if name in self.regularisers:
                v = self.regularisers[name]._prox(v, steps[name])
            elif name[0] == "x" and name[1:].isdigit():
                weight, f = self._potential(int(name[1:]))
                v = f._prox(v, weight * steps[name] / self.samples)
            new[name] = v
        return new

    def sweep_order(self):
        """Backwards through the network: x_l, then theta_l, as in a backward sweep; an unknown input last."""
        order = []
        for stage in reversed(self.stages):
            if stage.index < self.depth:
                order.append((f"x{stage.index}",))
            theta = tuple(name for name in stage.theta if name in self._trained)
            if theta:
                order.append(theta)
        return order if self.lowest else [*order, ("x0",)]

    def colours(self):
        """All parameters (given x, the stages are apart), then the x in as few colours as a greedy choice needs: two for a chain, odd and even layers."""
        theta, coupled = [], {l: set() for l in range(self.lowest, self.depth)}
        for stage in self.stages:
            own = tuple(name for name in stage.theta if name in self._trained and not any(name in group for group in theta))
            theta += [own] if own else []
            family = {p for p in (*stage.parents, stage.index) if p in coupled}
            for l in family:
                coupled[l] |= family - {l}
        chosen = {}
        for l in coupled:
            chosen[l] = min(set(range(self.depth)) - {chosen[m] for m in coupled[l] if m in chosen})
        return [theta] + [[(f"x{l}",) for l in coupled if chosen[l] == c] for c in sorted(set(chosen.values()))]

    def majorised_stage(self, point: Point, blocks: Sequence[str]) -> "Stage | None":
        """The stage whose parameters `blocks` are, where it is a linear layer with a quadratic majoriser in them; None elsewhere."""
        owners = [s for s in self.stages if not set(blocks).isdisjoint(s.theta)]
        stage = owners[0] if len(owners) == 1 else None
        if stage is None or not stage.is_linear_layer or set(stage.theta) != set(blocks) or any(name in self.regularisers for name in blocks):
            return None
        half = self.initial[blocks[0]].dtype in (torch.float16, torch.bfloat16)
        unfit = half or not math.isfinite(self._slope(stage)) or stage.penalty is not None and stage.index < self.depth and not stage.penalty.majorised
        return None if unfit else stage

    def majoriser(self, point, blocks):
        """(slope/n) [X, 1]^T [X, 1] for the parameters of a linear layer, with 1e-4 of its mean diagonal added: one Cholesky factor serves all rows of W."""
        stage = self.majorised_stage(point, blocks)
        if stage is None:
            return None
        x = self._input(stage, point)
        x = x.reshape(-1, x.shape[-1])
        few = 2 * len(x) <= x.shape[1]                             # (s X^T X + c I)^-1 = (I - X^T (X X^T + c/s I)^-1 X) / c
        X = torch.cat([x, x.new_ones(len(x), 1)], 1) if few and "bias" in stage.theta.values() else x
        M = X @ X.T if few else gram(x, "bias" in stage.theta.values())
        return self.majoriser_from(stage, M, X if few else None)

    def majoriser_from(self, stage: Stage, M: torch.Tensor, X: torch.Tensor | None = None) -> Callable[[Point], Point]:
        """`majoriser` from M = [X, 1]^T [X, 1], or from X, the 1 in it, and M = X X^T; M is overwritten."""
        names, scale = {inside: name for name, inside in stage.theta.items()}, self._slope(stage) / self.samples
        c = 1e-4 * scale * float(M.diagonal().sum()) / (len(M) if X is None else X.shape[1]) + 1 / self.tau
        M.diagonal().add_(c / scale)
        factor = torch.linalg.cholesky(M)

        def solve(gradient):
            g = gradient[names["weight"]]
            if "bias" in names:
                g = torch.cat([g, gradient[names["bias"]].unsqueeze(1)], 1)
            step = torch.cholesky_solve(g.T, factor).T.div_(scale) if X is None else torch.sub(g, torch.cholesky_solve(X @ g.T, factor).T @ X).div_(c)
            width = gradient[names["weight"]].shape[1]
            return {names["weight"]: step[:, :width].contiguous(), **({names["bias"]: step[:, -1].contiguous()} if "bias" in names else {})}

        return solve

    def _slope(self, stage):
        """Bound on the slope in z of the stage's residual."""
        return self.loss.lipschitz if stage.index == self.depth else self.rho[stage.index] * stage.penalty.lipschitz_z

    def lipschitz(self, point, blocks=None):
        bounds = {}
        for touched in self._touched(blocks):
            for name, bound in self._stage_bounds(touched[0], point, *touched[1:], self.samples).items():
                bounds[name] = bounds.get(name, 1 / self.tau if name in self._trained else 0.0) + bound
        return bounds

    def _stage_bounds(self, stage, point, theta, wanted, need_out, n):
        """{block: what the stage adds to the block's bound}, as `_touched` asks; means are over n samples."""
        l, weight, bounds = stage.index, self._slope(stage), {}
        if need_out:
            bounds[f"x{l}"] = self.rho[l] * stage.penalty.curvature / n
        if any(wanted):
            norm = self._input_norm(stage, point)
            bounds.update({f"x{p}": weight * norm / n for p, want in zip(stage.parents, wanted) if want})
        if theta:
            bounds.update(dict.fromkeys(theta, weight * self._theta_norm(stage, point) / n))
        return bounds

    def _input_norm(self, stage, point):
        """A bound on |A_l'|^2 in the inputs."""
        return float(stage.input_norm_squared(self._input(stage, point), point, self.seed, lowest=self.lowest))

    def _theta_norm(self, stage, point):
        """|J_theta|^2 summed over the samples: for a linear layer |[X, 1]|^2; by power iteration in both cases, with 10 to 20 % added."""
        x = self._input(stage, point)
        if not stage.is_linear_layer:
            z, pull = stage.evaluate(x, point, self.seed, wrt_input=False, keep=True)
            r = torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=torch.Generator(z.device).manual_seed(0))
            ratio = 0.0
            for _ in range(6):                                    # power iteration on J J* by pull and jvp
                _, g = pull(r)
                size = math.sqrt(sum(float(v.square().sum()) for v in g.values())) or 1.0
                direction = {inside: g[name] / size for name, inside in stage.theta.items()}
                local = stage._local(point)
                r = push_forward(lambda p: stage._call_module(p, x, self.seed, False), local, direction)
                ratio = float(r.square().sum())
            return 1.2 * ratio
        return gram_norm([x.reshape(-1, x.shape[-1])], "bias" in stage.theta.values())


def gram(x, bias):
    """[X, 1]^T [X, 1], or X^T X without a bias."""
    M = x.T @ x
    if not bias:
        return M
    s = x.sum(0, keepdim=True)
    return torch.cat([torch.cat([M, s.T], 1), torch.cat([s, s.new_full((1, 1), len(x))], 1)])


def gram_norm(parts, bias, total=sum):
    """|[X, 1]|^2, or |X|^2 without a bias, by power iteration, with 10 % on top; X comes in parts of its rows, and `total` sums what each gives."""
    v = torch.ones(parts[0].shape[1] + bias, dtype=parts[0].dtype, device=parts[0].device)
    for _ in range(12):
        v = v / torch.linalg.vector_norm(v).clamp(min=1e-30)
        v = total([_gram_product(x, v, bias) for x in parts])
    return 1.1 * float(torch.linalg.vector_norm(v))


def _gram_product(x, v, bias):
    """[X, 1]^T [X, 1] v."""
    w = torch.addmv(v[-1], x, v[:-1]) if bias else x @ v
    return torch.cat([x.T @ w, w.sum(0, keepdim=True)]) if bias else x.T @ w
