"""The lifted problem: E(theta, x) over the parameters and every layer's output, for one set of samples."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..arguments import Seed
from ..operators.functional import Functional
from ..operators.module import batch_norms
from .finite_sum import FiniteSum, take
from .losses import Loss
from .problem import Linearisation, Point, Problem, dot, numbers
from .stages import Stage
from .stagewise import Stagewise, gram
from .sweeps import Sweeps

__all__ = ["LiftedProblem"]

# what a problem on some samples has in common with the whole one
SHARED = ("stages", "loss", "rho", "regularisers", "extra", "frozen", "initial", "depth", "least_samples", "network", "theta_names", "trained", "_plan")


class LiftedProblem(Sweeps, FiniteSum, Stagewise, Problem):  # type: ignore[override]
    """E(theta, x) = (1/n) sum_i [ loss(z_L, y) + sum_{l<L} rho_l P_l(x_l, z_l) + S_l(x_l) ] + R(theta) [+ |theta - anchor|^2 / (2 tau)].

    Blocks: the network's parameters under their own names, and "x1" .. "x{L-1}" with the samples on the first axis.
    `F` holds all but the potentials Psi_l, S_l and R, which have proxes (the penalty of stage l holds S_l / rho_l: `Penalty.plus`).
    `anchor` and `tau` make it the subproblem of an implicit step.
    """

    network: nn.Module           # whose layers the stages are
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
    def trained(self) -> set[str]:
        return set(self.theta_names)

    @property
    def normalised(self) -> bool:
        """Whether a normalisation couples the samples."""
        return bool(batch_norms(self.network))

    # ---- subproblems
    def restrict(self, samples: torch.Tensor | slice, anchor: Point | None = None, tau: float = math.inf, seed: int = 0) -> "LiftedProblem":
        """The same problem on some samples (an index tensor or slice), with |theta - anchor|^2 / (2 tau) added."""
        inputs = take(self.inputs, samples)
        self._check_size(len(inputs))
        sub = LiftedProblem.__new__(LiftedProblem)               # without the constructor, which looks at arguments: these have been looked at, and a minibatch is soon done
        for name in SHARED:
            setattr(sub, name, getattr(self, name))
        sub.inputs, sub.targets, sub.samples, sub.anchor, sub.tau, sub.seed, sub._kept = inputs, take(self.targets, samples), len(inputs), anchor, tau, seed, {}
        return sub

    def _check_size(self, samples):
        if samples < self.least_samples:
            raise ValueError(f"{samples} sample at a time was asked for, and a BatchNorm with one value a channel has no variance; use at least {self.least_samples} samples "
                             "in every minibatch (a larger batch_size, a smaller accumulate), or put GroupNorm or LayerNorm in its place.")

    # ---- points
    def start(self):
        """The forward pass at the anchor, or at the initial parameters: a consistent point, where every penalty but the loss is zero. Normalisation buffers move here, once."""
        return self.forward(self.initial if self.anchor is None else self.anchor, update_buffers=True)

    def start_theta(self) -> Point:
        """A copy of the parameters of `start`."""
        return {name: p.clone() for name, p in (self.initial if self.anchor is None else self.anchor).items()}

    def buffers(self) -> Point:
        """A copy of the network's buffers (running statistics), which move with the steps."""
        return {name: b.clone() for name, b in self.network.named_buffers()}

    def set_buffers(self, buffers: Point) -> None:
        for name, b in self.network.named_buffers():
            b.copy_(buffers[name])

    def forward(self, theta: Point, update_buffers: bool = False) -> Point:
        """The forward pass: {"x1": ..}, a consistent point for the parameters `theta`."""
        point = dict(theta)
        for stage in self.stages[:-1]:
            z = self._z(stage, point) if stage.is_linear_layer else stage.forward(self._input(stage, point), point, self.seed, update_buffers)
            point[f"x{stage.index}"] = stage.penalty.activation(z)
        return point

    def loss_at(self, theta: Point) -> torch.Tensor:
        """The mean loss of the forward network."""
        point, last = self.forward(theta), self.stages[-1]
        return self.stage_value(last, point, self._z(last, point)) / self.samples

    def penalty_residuals(self, point: Point) -> dict[int, float]:
        """{l: |x_l - sigma(z_l)| / |sigma(z_l)|}: how far the lifted unknowns are from the forward network."""
        residuals = {}
        for stage in self.stages[:-1]:
            p = stage.penalty.activation(self._z(stage, point))
            residuals[stage.index] = (point[f"x{stage.index}"] - p).norm() / p.norm().clamp(min=1e-30)
        return dict(zip(residuals, numbers(list(residuals.values()))))

    # ---- the contract
    def smooth_value(self, point, blocks=None):
        value = sum(self.stage_value(stage, point, self._z(stage, point)) for stage, *_ in self.touched_stages(blocks)) / self.samples
        return value + self.proximity(point, blocks) if self.anchor is not None else value

    def proximity(self, point: Point, blocks: Collection[str] | None = None) -> Any:
        """|theta - anchor|^2 / (2 tau) over the parameters in `blocks` (None: all)."""
        far = [point[name] - self.anchor[name] for name in self.theta_names if blocks is None or name in blocks]  # type: ignore[index]
        return sum(dot(d, d) for d in far) / (2 * self.tau)

    def gradient(self, point, blocks=None):
        return self.linearise(point, blocks, value=False).gradient

    def linearise(self, point, blocks=None, value=True):
        total, gradient = 0.0, {}
        for touched in self.touched_stages(blocks):
            term, parts = self.stage_terms(touched[0], point, *touched[1:], self.samples, value)
            total = total + term
            for name, g in parts:
                gradient[name] = gradient[name] + g if name in gradient else g
        total = total / self.samples
        if self.anchor is not None:
            total = total + self.proximity(point, blocks)
            for name in self.trained & gradient.keys():
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
            theta = tuple(name for name in stage.theta if name in self.trained)
            if theta:
                order.append(theta)
        return order if self.lowest else [*order, ("x0",)]

    def colours(self):
        """All parameters (given x, the stages are apart), then the x in as few colours as a greedy choice needs: two for a chain, odd and even layers."""
        theta, coupled = [], {l: set() for l in range(self.lowest, self.depth)}
        for stage in self.stages:
            own = tuple(name for name in stage.theta if name in self.trained and not any(name in group for group in theta))
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
        unfit = half or not math.isfinite(self.slope(stage)) or stage.penalty is not None and stage.index < self.depth and not stage.penalty.majorised
        return None if unfit else stage

    def majoriser(self, point, blocks):
        """(slope/n) [X, 1]^T [X, 1] for the parameters of a linear layer, with 1e-4 of its mean diagonal added: one Cholesky factor serves all rows of W."""
        stage = self.majorised_stage(point, blocks)
        if stage is None:
            return None
        x = self._input(stage, point)
        x = x.reshape(-1, x.shape[-1])
        few = 2 * len(x) <= x.shape[1]                             # (s X^T X + c I)^-1 = (I - X^T (X X^T + c/s I)^-1 X) / c
        X = torch.cat([x, x.new_ones(len(x), 1)], 1) if few and "bias" in stage.names else x
        M = X @ X.T if few else gram(x, "bias" in stage.names)
        return self.majoriser_from(stage, M, X if few else None)

    def majoriser_from(self, stage: Stage, M: torch.Tensor, X: torch.Tensor | None = None) -> Callable[[Point], Point]:
        """`majoriser` from M = [X, 1]^T [X, 1], or from X, the 1 in it, and M = X X^T; M is overwritten."""
        names, scale = stage.names, self.slope(stage) / self.samples
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

    def lipschitz(self, point, blocks=None):
        bounds = {}
        for touched in self.touched_stages(blocks):
            for name, bound in self.stage_bounds(touched[0], point, *touched[1:], self.samples).items():
                bounds[name] = bounds.get(name, 1 / self.tau if name in self.trained else 0.0) + bound
        return bounds


def check_names(parameters):
    """Refuse names of parameters that are those of blocks."""
    taken = [name for name in parameters if re.fullmatch(r"[xr]\d+", name)]
    if taken:
        raise ValueError(f"the network has parameters named {', '.join(taken)}, as the lifted unknowns are (x1, x2, ..) and their residuals (r1, r2, ..); rename them in "
                         "the module, or put it into another one: torch.nn.Sequential(network).")
