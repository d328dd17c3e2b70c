"""Which worker gets which stages and samples."""

import torch

from .costs import Link, counted_costs, layout_for, layout_table, measured_costs
from .mesh import Mesh, Simulated
from .minibatches import Placed, SimulatedRow
from .schedules import Flushed, Streamed

__all__ = ["place"]

ROWS = 1024                      # samples on which stages are timed, at most


def place(problem, solver, wish, interrupted):
    """The problem on the mesh that `wish` asks for, or on the one that the cost model predicts to be the fastest; its `layout` is the model's table."""
    minibatches, name = solver.shared == "minibatches", type(solver).__name__
    batch = min(solver.batch_size, problem.samples) if minibatches else problem.samples
    shapes = [(d, l) for d, l in wish.shapes() if l <= problem.depth and d <= batch]
    why = ""
    if isinstance(wish, Simulated):
        shapes, why = [(d, l) for d, l in shapes if d == 1], "; simulated workers share layers"
    if solver.shared == "samples":
        shapes, why = [(d, l) for d, l in shapes if l == 1], f"; {name} shares samples only: use Workers(data={wish.total}, layers=1)"
    if problem.lowest == 0:
        shapes, why = [(d, l) for d, l in shapes if l == 1], f"; an unknown input is shared by samples: use Workers(data={wish.total}, layers=1)"
    if problem.normalised and not minibatches:
        other = f"use Workers(data=1, layers={wish.total})" if solver.shared == "blocks" else "use ISGM"
        shapes, why = [(d, l) for d, l in shapes if d == 1], f"; BatchNorm couples the samples, which {name} would split: {other}"
    if not shapes:
        raise ValueError(f"{wish.total} workers were asked for as {wish}, and the problem has {problem.depth} stages and {batch} samples"
                         f"{' in a minibatch' * minibatches}{why or '; use fewer'}.")
    if wish.shard_parameters and not (minibatches and not solver.average):
        raise ValueError(f"shard_parameters=True was given for {solver!r}; it splits the metric of ISGM over workers, without averages: leave it out, or average=0.")
    simulated, found = isinstance(wish, Simulated), []
    if len(shapes) > 1 or shapes[0][1] > 1:
        everyone = Mesh() if simulated else Mesh(wish.total, 1, wish.timeout)
        if everyone.rank == 0:
            costs = (counted_costs if minibatches else measured_costs)(problem, min(batch, ROWS))       # a stream's result depends on its cuts: no clock there
            kind = "jacobi" if not minibatches else "flush" if isinstance(wish.schedule, Flushed) else "stream"
            given = wish.schedule.microbatches if wish.schedule else None
            found = [layout_for(costs, d, l, batch, kind if l > 1 else "jacobi", Link(), microbatches=given if l > 1 else None) for d, l in shapes]
            found.sort(key=lambda a: a.seconds)
        found = everyone.objects(found)[0]
    data, layers = (found[0].data, found[0].layers) if found else shapes[0]
    cuts = [range(g.start + 1, g.stop + 1) for g in found[0].groups] if found else [range(1, problem.depth + 1)]
    deterministic = problem.inputs.dtype == torch.float64 if wish.deterministic is None else wish.deterministic
    schedule = wish.schedule or (Streamed() if layers > 1 else Flushed())
    mesh = Mesh() if simulated else Mesh(data, layers, wish.timeout, lanes=problem.inputs.is_cuda)
    placed = (SimulatedRow if simulated else Placed)(problem, mesh, cuts, deterministic, schedule, interrupted, wish.shard_parameters)
    placed.layout = layout_table(found) if found else f"{data} x {layers}"
    return placed

