"""Which worker gets which stages and samples."""

import torch

from ..problems.partition import partition, stage_costs
from .mesh import Mesh
from .placed import Placed

__all__ = ["place"]


def place(problem, solver, wish):
    """The problem on the mesh that `wish` asks for, or that costs least."""
    shapes = [(d, l) for d, l in wish.shapes() if l <= problem.depth and d <= problem.samples]
    if not shapes:
        raise ValueError(f"{wish.total} workers were asked for as {wish}, and the problem has {problem.depth} stages and {problem.samples} samples; "
                         f"use workers={min(problem.samples, problem.depth)} or fewer.")
    data, layers = shapes[0]
    mesh = Mesh(data, layers, wish.timeout)
    costs = stage_costs(problem, min(32, problem.samples))
    cuts = mesh.objects([range(r.start + 1, r.stop + 1) for r in partition(costs, layers)])[0]
    deterministic = problem.inputs.dtype == torch.float64 if wish.deterministic is None else wish.deterministic
    return Placed(problem, mesh, cuts, deterministic)
