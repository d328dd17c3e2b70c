"""The contract between problems and solvers.

A problem is E(u) = F(u) + G(u) over named blocks u = {name: tensor}: F smooth, G a sum over blocks with a known prox; with a single block there may be
terms H_j(K_j u) besides, H_j with a prox and K_j linear (`linear`). Solvers see these methods only; they know no network, no data set and no worker.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch

from ..arguments import checked, shown
from ..operators.space import inner, norm, parts

__all__ = ["Problem", "Linearisation"]

Point = dict[str, torch.Tensor]          # {block: tensor}


class AgreedInterrupt(KeyboardInterrupt):
    """Ctrl-C, on all workers after the same step."""


@dataclass
class Linearisation:
    """F at a point: `value` (a 0-d tensor) and `gradient` {name: tensor}."""

    value: torch.Tensor
    gradient: dict


def _for_later(init):
    """A constructor whose tensors are ordinary ones also under torch.inference_mode(): the problem is solved later."""
    @functools.wraps(init)
    def made(self, *given, **named):
        with torch.inference_mode(False):
            init(self, *given, **named)

    return made


class Problem:
    """min_u F(u) + G(u) [+ sum_j H_j(K_j u)]. Subclasses define the methods that raise here."""

    samples: int = 0            # how many samples F averages over; 0 where it is no average
    smooth: bool = True         # F has a gradient
    has_prox: bool = True       # G has a prox, block by block
    convex: bool = False
    linear: Any = ()            # pairs (H, K) of terms H(K u) that only splitting methods can treat
    probabilities: Any = None   # of these terms, for methods that draw them; None: all alike
    subsets: Any = ()           # F in parts, f_1 @ A_1 + f_2 @ A_2 + ..., for methods that visit them in turn

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _for_later(cls.__init__)
        checked(cls)

    def start(self) -> Point:
        """A fresh starting point {name: tensor}."""
        raise NotImplementedError(f"{type(self).__name__} defines no start(); a problem needs a starting point.")

    def linearise(self, point: Point, blocks: Collection[str] | None = None) -> Linearisation:
        """F and its gradient with respect to `blocks` (all by default) in one pass; with `blocks`, the value may leave out terms that do not depend on them."""
        raise NotImplementedError(f"{type(self).__name__} defines no linearise(point).")

    def smooth_value(self, point: Point, blocks: Collection[str] | None = None) -> torch.Tensor:
        """F(point); with `blocks`, the same terms as in `linearise(point, blocks).value`."""
        return self.linearise(point, blocks).value

    def nonsmooth_value(self, point: Point) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no nonsmooth_value(point).")

    def prox(self, point: Point, steps: dict[str, float]) -> Point:
        """prox of G, block by block: {name: prox_{steps[name] G_name}(point[name])} for the blocks in `point`."""
        raise NotImplementedError(f"{type(self).__name__} defines no prox(point, steps).")

    def lipschitz(self, point: Point, blocks: Collection[str] | None = None) -> dict[str, float]:
        """{name: bound on the Lipschitz constant of the block gradient, other blocks fixed}."""
        raise NotImplementedError(f"{type(self).__name__} has no Lipschitz bounds; use step='backtracking'.")

    def majoriser(self, point: Point, blocks: Sequence[str]) -> Callable[[Point], Point] | None:
        """M >= the Hessian of F in `blocks`, as a map {name: gradient} -> {name: M^-1 gradient}, where it is cheap and the blocks have no G; None elsewhere."""
        return None

    def first_step(self, point: Point) -> dict[str, float] | None:
        """{name: step} to begin a search with, where values of F at new points cost no product of their own between `extrapolate`d ones; None elsewhere."""
        return None

    def sweep_order(self) -> list[tuple[str, ...]]:
        """Groups of blocks in the order in which a coordinate method visits them."""
        return [(name,) for name in self.start()]

    def colours(self) -> list[list[tuple[str, ...]]]:
        """Lists of groups of blocks; groups of one list do not couple in F, so they may be updated at once. By default every group of the sweep order apart."""
        return [[group] for group in self.sweep_order()]

    # ---- forms: one problem, arranged for a method
    def split_form(self, subsets: int = 1, explicit: bool = True) -> "Problem":
        """This problem for methods that take terms H(K u) apart: the problem itself where it has one form only. `subsets`: the data term in so many terms;
        `explicit`: F may be treated by gradient steps."""
        if subsets > 1:
            raise TypeError(f"subsets={subsets} was asked of {type(self).__name__}, which names no data term; use Reconstruction, or Composite(linear=subsets(f @ K, {subsets})).")
        return self

    def prox_form(self, subsets: int = 1) -> "Problem":
        """This problem as F + G, G with a prox; the problem itself where it has one form only. `subsets`: F in so many parts, in `self.subsets`."""
        return self

    # ---- what follows from the above
    def value(self, point: Point) -> torch.Tensor:
        """E(point), a 0-d tensor."""
        return self.smooth_value(point) + self.nonsmooth_value(point)

    def gradient(self, point: Point, blocks: Collection[str] | None = None) -> Point:
        return self.linearise(point, blocks).gradient

    def extrapolate(self, old: Point, new: Point, weight: float, blocks: Collection[str]) -> Point:
        """new + weight (new - old) in `blocks`, new in the others."""
        return {k: torch.lerp(old[k], v, 1 + weight) if k in blocks else v for k, v in new.items()}

    def excess(self, new: Point, point: Point, lin: Linearisation, d: Point) -> tuple:
        """D_F(new, point) = F(new) - F(point) - <grad F(point), d>, d = new - point, and its rounding error."""
        here = self.smooth_value(new)
        model = lin.value + self.inner({k: lin.gradient[k] for k in d}, d)
        eps = max(torch.finfo(v.dtype).eps for v in (here, *d.values()))                     # workers add up in float64 what they have computed in the blocks' dtype
        return here - model, 1e-12 * abs(model) + 10 * eps * abs(lin.value)

    def inner(self, a: Point, b: Point) -> torch.Tensor:
        """Global sum over blocks of Re <a, b>."""
        if len(a) == 1:
            (k, v), = a.items()
            return dot(v, b[k])
        return sum(dot(a[k], b[k]) for k in a)

    def inners(self, a: Point, b: Point) -> dict[str, float]:
        """{block: Re <a, b>} as numbers."""
        return dict(zip(a, numbers([dot(v, b[k]) for k, v in a.items()])))

    def group_values(self, point: Point, groups: Iterable[Collection[str]]) -> list[float]:
        """[number, ..]: `smooth_value(point, group)` for each group of blocks."""
        return numbers([self.smooth_value(point, group) for group in groups])

    def norm(self, a: Point) -> torch.Tensor:
        return self.inner(a, a).sqrt()

    def dual_norm(self, parts: Sequence[torch.Tensor]) -> Any:
        """|(y_1, ..., y_J)|, one part for each linear term."""
        return sum(self.image_square(K, y) for (_, K), y in zip(self.linear, parts)).sqrt()  # type: ignore[union-attr]

    def image_square(self, K: Any, y: torch.Tensor) -> torch.Tensor:
        """|y|^2, y in the range of K, an operator of the problem; over all workers, where they share its rows."""
        return norm(y) ** 2

    def gap(self, point: Point, dual: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Primal-dual gap, an upper bound on E(point) - min E; `dual` as the method keeps it."""
        raise NotImplementedError(f"{type(self).__name__} has no duality gap; stop on the residual or on the change of the objective.")

    def metrics(self, point: Point) -> dict:
        """What the history shows besides the objective: {column: number}."""
        return {}

    def finish(self, point: Point) -> Any:
        """What the user takes away from the final point (a network, an image); None where there is nothing beside the point."""
        return None

    def explicit_pass(self, theta: Point, batches: Iterable[tuple], update: Callable[[int, Point], Any], parts: int = 1, factor: Callable[[int], float] | None = None) -> Any:
        """For the k-th of `batches` (samples, seed): update(k, the gradient there), which changes theta in place; the gradient is made from `parts` parts of the batch, one
        after the other. `factor`(k), the step's share of the first one, serves schedules over workers. Returns the sum of the losses before the updates."""
        total = 0.0
        for k, (samples, seed) in enumerate(batches):
            gradient = {}
            for i, part in enumerate(samples.chunk(parts) if parts > 1 else (samples,)):
                loss, own = self.draw(part, theta, seed=seed + 104729 * i).explicit_gradient(theta)
                if parts > 1:
                    share = len(part) / len(samples)
                    loss, own = share * loss, dict(zip(own, torch._foreach_mul(list(own.values()), share)))
                    if gradient:
                        torch._foreach_add_([own[name] for name in gradient], list(gradient.values()))
                total, gradient = total + loss, own
            update(k, gradient)
        return total

    # ---- where the problem lies on one worker or many (`paralift.distributed`)
    layout = ""                 # who has what, as text
    alone = True                # whether no other worker shares it
    leads = True                # whether this worker writes files and shows the progress
    arrivals = None             # with workers that take gradients on their own: the method that waits for them

    def agree(self, *flags: bool) -> tuple:
        """Each flag as it is on any worker; raises AgreedInterrupt on all once one was interrupted."""
        return flags

    def gather(self, tree: Any) -> Any:
        """`collect` on the worker that leads; None on the others."""
        tree = self.collect(tree)
        return tree if self.leads else None

    def kept(self, theta: Point) -> Point:
        """The parameters for which this worker keeps what a method needs beside them."""
        return theta

    def collect(self, tree: Any) -> Any:
        """A state, or a point, with whole blocks; on workers that do not lead, their own parts."""
        return tree

    def spread(self, tree: Any) -> Any:
        """This worker's part of what `collect` gave."""
        return tree

    def draw(self, samples: torch.Tensor, anchor: Point | None = None, tau: float = inf, seed: int = 0) -> Any:
        """`restrict` for a method on minibatches, where data may be random too."""
        return self.restrict(samples, anchor, tau, seed)  # type: ignore[attr-defined]


def check_point(who, point, like):
    """ValueError where `point` is no {block: tensor} that has the blocks of `like`, in their shapes."""
    if not isinstance(point, dict) or not all(torch.is_tensor(point.get(name)) and point[name].shape == v.shape and point[name].dtype == v.dtype for name, v in like.items()):
        given = {name: tuple(v.shape) if torch.is_tensor(v) else v for name, v in point.items()} if isinstance(point, dict) else point
        raise ValueError(f"{who} got {shown(given)}; it needs a point {{block: tensor}} such as result.x, with "
                         + ", ".join(f"{name} of shape {tuple(v.shape)}, {v.dtype}" for name, v in like.items()) + ".")


def numbers(tensors: Sequence[torch.Tensor]) -> list[float]:
    """0-d tensors as Python's numbers; they leave their device together."""
    if len(tensors) > 1 and tensors[0].device.type != "cpu":
        return torch.stack([v.to(torch.float64) for v in tensors]).tolist()
    return [float(v) for v in tensors]


def dot(a, b):
    """Re <a, b>; one pass where memory is contiguous."""
    if a.is_complex() and b.is_complex():
        a, b = parts(a), parts(b)
    if a.is_complex() or b.is_complex():
        return inner(a, b)
    if a.is_contiguous() and b.is_contiguous() and a.dtype == b.dtype and a.element_size() > 2:
        return torch.dot(a.view(-1), b.view(-1))
    return torch.sum(a * b)
