"""A lifted problem stage by stage: what a problem on several workers (`paralift.distributed`) is put together from."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch

from ..operators.space import Space
from .problem import Point
from .stages import Stage, differential

__all__ = ["Stagewise", "gram", "gram_norm"]


class Stagewise:
    """Part of `LiftedProblem`: the term of F of each stage l, (1/n) sum_i rho_l P_l(x_l, z_l) or the loss's, with its gradients and bounds, from the blocks that it depends on.

    `touched_stages` says which terms a set of blocks asks for, and what of each; `stage_value`, `stage_terms` and `stage_bounds` give that from a point which holds the stage's own
    blocks and its parents'. Means are over n samples, which may be more than are here.
    """

    stages: Any                    # what the parts of a lifted problem share
    depth: int
    lowest: int
    trained: Any
    inputs: Any
    targets: Any
    loss: Any
    rho: Any
    seed: Any
    _kept: dict

    def _input(self, stage, point):
        """What the stage acts on: its parent's x (or the data), a tuple for several parents."""
        if len(stage.parents) == 1:
            return point[f"x{stage.parents[0]}"] if stage.parents[0] >= self.lowest else self.inputs
        return tuple(point[f"x{p}"] if p >= self.lowest else self.inputs for p in stage.parents)

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

    def forget(self, stage: Stage) -> None:
        """Keep z_l no longer: its input has changed without torch's knowledge, as memory does into which messages are received."""
        self._kept.pop(stage.index, None)

    def _evaluate(self, stage, point, wanted, theta):
        """z_l and its local map."""
        if stage.is_linear_layer:
            return self._z(stage, point), stage.pull_linear(self._input(stage, point), point, wanted[0], theta)
        return stage.evaluate(self._input(stage, point), point, self.seed, wrt_input=wanted, wrt_theta=theta)

    def _residual(self, stage, point, z):
        """rho_l dP_l/dz (the loss's gradient for the last stage), per sample."""
        if stage.index == self.depth:
            return self.loss.gradient(z, self.targets)
        r = stage.penalty._gradient_z(point[f"x{stage.index}"], z)
        rho = self.rho[stage.index]
        return r if rho == 1 else rho * r

    # ---- which terms, and their values and gradients
    def trains(self, stage: Stage) -> bool:
        """Whether some of the stage's parameters are trained."""
        return not self.trained.isdisjoint(stage.theta)

    def touched_stages(self, blocks: Collection[str] | None) -> Iterator[tuple[Stage, list[str], tuple[bool, ...], bool]]:
        """(stage, its wanted parameters, for each parent whether its x is wanted, x_l wanted) of the stages whose term depends on `blocks` (None: all)."""
        for stage in self.stages:
            l, trained = stage.index, self.trained
            theta = [name for name in stage.theta if (name in trained if blocks is None else name in blocks)]
            wanted = tuple(p >= self.lowest and (blocks is None or f"x{p}" in blocks) for p in stage.parents)
            need_out = l < self.depth and (blocks is None or f"x{l}" in blocks)
            if theta or need_out or any(wanted):
                yield stage, theta, wanted, need_out

    def stage_value(self, stage: Stage, point: Point, z: torch.Tensor) -> torch.Tensor:
        """The sum over the samples of the stage's term in F, z being its z_l."""
        l = stage.index
        return self.loss.value(z, self.targets).sum() if l == self.depth else self.rho[l] * stage.penalty._smooth_value(point[f"x{l}"], z).sum()  # type: ignore[union-attr]

    def stage_terms(self, stage: Stage, point: Point, theta: Sequence[str], wanted: Sequence[bool], need_out: bool, n: int, value: bool = True) -> tuple[Any, list]:
        """(sum over the samples of the stage's term in F, or 0 without `value`, [(block, its part of the gradient of the mean over n samples)]), as `touched_stages` asks."""
        l = stage.index
        z, pull = self._evaluate(stage, point, wanted, bool(theta))
        parts = [(f"x{l}", stage.penalty._gradient_x(point[f"x{l}"], z) * (self.rho[l] / n))] if need_out else []  # type: ignore[union-attr]
        if theta or any(wanted):
            gx, gtheta = pull(self._residual(stage, point, z), 1 / n)
            parts += [(name, gtheta[name]) for name in theta] + [(f"x{p}", g / n) for p, g in stage.pairs(gx)]
        return self.stage_value(stage, point, z) if value else 0.0, parts

    # ---- bounds
    def slope(self, stage: Stage) -> float:
        """Bound on the slope in z of the stage's residual."""
        return self.loss.lipschitz if stage.index == self.depth else self.rho[stage.index] * stage.penalty.lipschitz_z  # type: ignore[union-attr]

    def stage_bounds(self, stage: Stage, point: Point, theta: Sequence[str], wanted: Sequence[bool], need_out: bool, n: int) -> dict[str, float]:
        """{block: what the stage adds to the block's bound}, as `touched_stages` asks; means are over n samples."""
        l, weight, bounds = stage.index, self.slope(stage), {}
        if need_out:
            bounds[f"x{l}"] = self.rho[l] * stage.penalty.curvature / n  # type: ignore[union-attr]
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
        if stage.is_linear_layer:
            return gram_norm([x.reshape(-1, x.shape[-1])], "bias" in stage.names)
        z, pull = stage.evaluate(x, point, self.seed, wrt_input=False, keep=True)
        r = Space.of(z).randn(generator=torch.Generator().manual_seed(0))
        local = stage._local(point)
        for _ in range(6):                                        # power iteration on J J* by pull and jvp
            g = pull(r)[1]
            size = torch.stack([torch.linalg.vector_norm(v) for v in g.values()]).norm().clamp(min=1e-30)
            r = differential(lambda p: stage._call_module(p, x, self.seed, False), (local,), ({inside: g[name] / size for name, inside in stage.theta.items()},))
        return 1.2 * float(torch.linalg.vector_norm(r)) ** 2


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
