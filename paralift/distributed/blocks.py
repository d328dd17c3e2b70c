"""Which blocks of a problem lie on this worker, and whole states from their parts."""

import torch

from ..problems.problem import Problem

__all__ = ["Blocks"]

SHARDS = 8                       # fixed parts of the samples whose sums are made in order


class Blocks(Problem):
    """The blocks of `problem` (LiftedTraining) on a mesh: stages `cuts[l]` (a range of their numbers, from 1) and a part of the samples for every worker.

    A block that lies elsewhere is an empty tensor, so that a solver's arithmetic on blocks needs no case. The parameters are replicated along `data`; a parameter that
    several stages share lies with the first. All methods are called by all workers together, and scalars are the same on all.
    """

    smooth, has_prox = True, True

    def __init__(self, problem, mesh, cuts, deterministic, schedule, interrupted, sharded=False):
        self.problem, self.mesh, self.cuts, self.deterministic = problem, mesh, cuts, deterministic
        self.schedule, self.interrupted, self.sharded = schedule, interrupted, sharded and mesh.data > 1
        for same in ("samples", "theta_names", "stages", "loss", "regularisers", "inputs", "rho", "convex"):
            setattr(self, same, getattr(problem, same))
        self.own = cuts[mesh.layer_rank]
        self.leads, self.alone = mesh.rank == 0, mesh.size == 1
        self.normalised = problem.normalised
        size = min(SHARDS, problem.samples) if deterministic and mesh.data <= SHARDS and not self.normalised else mesh.data
        if size < mesh.data:
            raise ValueError(f"{mesh.data} workers along the samples were asked for, and there are {problem.samples} samples; use Workers({problem.samples}) at most.")
        shards = [slice(i * problem.samples // size, (i + 1) * problem.samples // size) for i in range(size)]
        ends = [d * size // mesh.data for d in range(mesh.data + 1)]
        self.counts, self.first = [b - a for a, b in zip(ends, ends[1:])], ends[mesh.data_rank]
        own = shards[self.first:ends[mesh.data_rank + 1]]
        self.own_shards, self.rows = own, slice(own[0].start, own[-1].stop)
        self.local = [slice(s.start - self.rows.start, s.stop - self.rows.start) for s in own]
        self.parts = [problem.restrict(s, seed=self.first + i) for i, s in enumerate(own)]
        self.shards = size
        few = problem.restrict(slice(0, max(1, problem.least_samples))).forward(problem.initial)
        for s in problem.stages[:-1]:
            if len(few[f"x{s.index}"]) != max(1, problem.least_samples):
                raise ValueError(f"stage {s.index} ({s.label or s.operator}) has an output of shape {tuple(few[f'x{s.index}'].shape)}, whose samples are not on the first axis, "
                                 "so workers cannot share them; move that axis to the front in the module (batch_first=True in torch's attention and recurrent layers).")
        worker = lambda l: next(k for k, r in enumerate(cuts) if l in r)
        self.worker = {s.index: worker(s.index) for s in problem.stages}                 # of every stage
        self.owner = {f"x{l}": self.worker[max(l, 1)] for l in range(problem.lowest, problem.depth)}   # of every block
        for s in problem.stages:
            for name in s.theta:
                self.owner.setdefault(name, self.worker[s.index])
        for name in problem.initial:                                                     # of no stage: a parameter that the network does not use
            self.owner.setdefault(name, 0)
        self.names = [*problem.initial, *(f"x{l}" for l in range(problem.lowest, problem.depth))]
        self.position = {name: k for k, name in enumerate(self.names)}
        self.empty = next(iter(problem.initial.values())).new_empty(0)
        self._traffic, self._buffers = {}, {}

    def here(self, name):
        return self.owner.get(name, self.mesh.layer_rank) == self.mesh.layer_rank

    def is_x(self, name):
        """Whether the first axis is that of the samples: x_l, or the residuals and inputs of a gradient table."""
        return name not in self.problem.initial

    def memory(self, name):
        """Room for a block: a parameter, or this worker's samples of x_l."""
        if not self.is_x(name):
            return torch.empty_like(self.problem.initial[name])
        own = self.problem.stages[int(name[1:]) - 1].elements
        return torch.empty(self.rows.stop - self.rows.start, *own.shape, dtype=own.dtype, device=own.device)

    def _part(self, point):
        """This worker's part of a whole point."""
        for name, v in point.items():
            if self.is_x(name) and len(v) != self.samples:
                raise ValueError(f"the result to resume from belongs to another problem ({len(v)} samples instead of {self.samples}); "
                                 "resume with the problem it was made from.")
        return {k: (v[self.rows] if self.is_x(k) else v) if self.here(k) else self.empty for k, v in point.items()}

    def whole_theta(self, point):
        """All parameters, on every worker."""
        whole = {}
        for name, v in self.problem.initial.items():
            whole[name] = point[name] if self.mesh.layers == 1 else self.mesh.broadcast(point[name].clone() if self.here(name) else torch.empty_like(v), self.owner[name])
        return whole

    # ---- states, whole and spread
    def _walk(self, tree, change):
        """`tree` with change(name, tensor) in place of the tensors that are keyed by a block's name."""
        if isinstance(tree, dict):
            return {k: change(k, v) if torch.is_tensor(v) and self._is_block(k) else self._walk(v, change) for k, v in tree.items()}
        return type(tree)(self._walk(v, change) for v in tree) if isinstance(tree, (list, tuple)) else tree

    def _is_block(self, name):
        return name in self.problem.initial or isinstance(name, str) and name[:1] in ("x", "r") and name[1:].isdigit()

    def collect(self, tree):
        if self.mesh.size == 1:
            return tree
        return self._walk(tree, self._collect)

    def _collect(self, name, v):
        """The whole block on worker 0, from the workers that have it."""
        kinds = self.mesh.objects((tuple(v.shape), v.dtype) if self.here(name) and v.numel() else None)
        if not self.is_x(name):                                    # the workers along the data that have it have the same
            first = next((rank for rank, kind in enumerate(kinds) if kind is not None), 0)
            kinds = [kind if rank == first else None for rank, kind in enumerate(kinds)]
        pieces = []
        for rank, kind in enumerate(kinds):
            if kind is None:
                continue
            if self.leads:
                pieces.append(v if rank == 0 else self.mesh.fetch(v.new_empty(kind[0], dtype=kind[1]), rank))
            elif rank == self.mesh.rank:
                self.mesh.deliver(v, 0)
        return (torch.cat(pieces) if len(pieces) > 1 else pieces[0] if pieces else v) if self.leads else v

    def spread(self, tree):
        return self._walk(tree, lambda name, v: self._part({name: v})[name].clone())

    def agree(self, *flags):
        return self.mesh.agree(flags, self.interrupted())
