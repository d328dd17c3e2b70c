"""Which stages go together when workers share a network: measured costs, and the contiguous parts whose largest cost is least."""

import time

import torch

__all__ = ["partition", "stage_costs"]


def stage_costs(problem, batch_size=32, repeats=3):
    """Seconds that each stage takes for its forward and its local backward on `batch_size` samples: the least of `repeats` tries.

    problem : LiftedTraining. Raises ValueError where batch_size or repeats is no integer >= 1.
    """
    for name, value in (("batch_size", batch_size), ("repeats", repeats)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"stage_costs got {name}={value!r}; it needs an integer >= 1.")
    part, theta, costs = problem.restrict(slice(0, batch_size)), problem.start_theta(), []
    point = part.forward(theta)
    for stage in problem.stages:
        x, wanted = part._input(stage, point), tuple(p > 0 for p in stage.parents)
        seconds = []
        for _ in range(repeats):
            began = _now(part.inputs.device)
            z, pull = stage.evaluate(x, point, seed=0, wrt_input=wanted)
            pull(torch.ones_like(z))
            seconds.append(_now(part.inputs.device) - began)
        costs.append(min(seconds))
    return costs


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def partition(costs, parts):
    """[range, ...]: `parts` contiguous groups, none empty, whose largest sum of costs is the least possible.

    costs : numbers >= 0. Raises ValueError where there are more parts than costs, or a cost is negative.
    """
    costs = [float(c) for c in costs]
    if any(not c >= 0 for c in costs):
        raise ValueError(f"partition got the cost {next(c for c in costs if not c >= 0)}; costs are numbers >= 0.")
    if not isinstance(parts, int) or not 1 <= parts <= len(costs):
        raise ValueError(f"partition got parts={parts!r} for {len(costs)} stages; it needs an integer from 1 to {len(costs)}.")
    before = [0.0]
    for c in costs:
        before.append(before[-1] + c)
    n = len(costs)
    least, cut = [before[j] for j in range(n + 1)], []                       # least largest sum of the first j costs in k parts
    for k in range(2, parts + 1):
        best = [float("inf")] * (n + 1)
        where = [0] * (n + 1)
        for j in range(k, n + 1):
            best[j], where[j] = min((max(least[i], before[j] - before[i]), i) for i in range(k - 1, j))
        least, cut = best, [*cut, where]
    ends = [n]
    for where in reversed(cut):
        ends.append(where[ends[-1]])
    ends.append(0)
    return [range(a, b) for b, a in zip(ends, ends[1:])][::-1]
