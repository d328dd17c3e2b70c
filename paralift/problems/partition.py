"""Which stages go together when workers share a network: measured costs, and the contiguous parts whose largest cost is least."""

import math
import time
from collections.abc import Sequence

import numpy as np
import torch

from ..arguments import Count, checked
from .lifted_training import LiftedTraining

__all__ = ["partition", "stage_costs"]


@checked
def stage_costs(problem: LiftedTraining, batch_size: Count = 32, repeats: Count = 3) -> list[float]:
    """Seconds that each stage takes for its forward and its local backward on `batch_size` samples: the least of `repeats` tries.

    problem : LiftedTraining. Raises ValueError where batch_size or repeats is no integer >= 1.
    """
    return [forward + backward for forward, backward in time_stages(problem, batch_size, repeats)]


def time_stages(problem, rows, repeats, gradients=True):
    """[(forward, backward), ..]: seconds of each stage on the first `rows` samples, the least of `repeats` tries each.

    forward : z and sigma(z). backward : the sweep of the stage's penalty (the loss's gradient for the last stage), then the pull on inputs and parameters; without `gradients`
    that of linear layers is on inputs only.
    """
    part, theta = problem.restrict(slice(0, rows)), problem.start_theta()
    point = part.forward(theta)
    tries = [[_time_stage(part, stage, part._input(stage, point), point, gradients) for stage in problem.stages] for _ in range(repeats)]   # a burst of other load spoils one try
    return [tuple(map(min, zip(*times))) for times in zip(*tries)]


def _time_stage(part, stage, x, point, gradients):
    device, last = part.inputs.device, stage.index == part.depth
    began = _now(device)
    wanted = part.trains(stage) and (gradients or not stage.is_linear_layer)
    z, pull = stage.evaluate(x, point, seed=0, wrt_input=tuple(p > 0 for p in stage.parents), wrt_theta=wanted)
    p = None if last else stage.penalty.activation(z)
    between = _now(device)
    g = None if last else torch.ones_like(z)
    ready = _now(device)
    r, weight = (part.loss.value_and_gradient(z, part.targets)[1], 1.0) if last else stage.penalty._sweep(z, p, g, 1.0, part.rho[stage.index], pull.fresh)
    pull(r, weight / part.samples)
    return between - began, _now(device) - ready


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@checked
def partition(costs: Sequence[float], parts: Count) -> list[range]:
    """[range, ...]: `parts` contiguous groups, none empty, whose largest sum of costs is the least possible.

    costs : numbers >= 0. Raises ValueError where there are more parts than costs, or a cost is negative.
    """
    costs = [float(c) for c in costs]
    if any(not c >= 0 for c in costs):
        raise ValueError(f"partition got the cost {next(c for c in costs if not c >= 0)}; costs are numbers >= 0.")
    if parts > len(costs):
        raise ValueError(f"partition got parts={parts!r} for {len(costs)} stages; it needs an integer from 1 to {len(costs)}.")
    before = np.cumsum([0.0, *costs])
    return best_groups(before[None, :] - before[:, None], parts)[0]


def best_groups(cost, parts):
    """([range, ...], value): the `parts` contiguous groups of n stages, none empty, whose largest cost is least, by a dynamic programme in parts n^2 operations.

    cost : (n + 1, n + 1) array; cost[i, j] of the stages i .. j - 1, inf where they may not go together (only i < j is read). The value is inf where no groups serve.
    """
    n = len(cost) - 1
    cost = np.where(np.arange(n + 1)[:, None] < np.arange(n + 1), cost, math.inf)
    least, begins = cost[0], []                                             # least[j]: the least largest cost of the first j stages in k groups
    for _ in range(parts - 1):
        largest = np.maximum(least[:, None], cost)
        begins.append(largest.argmin(0))
        least = largest.min(0)
    ends = [n]
    for begin in reversed(begins):
        ends.append(int(begin[ends[-1]]))
    ends.append(0)
    return [range(a, b) for b, a in zip(ends, ends[1:])][::-1], float(least[n])
