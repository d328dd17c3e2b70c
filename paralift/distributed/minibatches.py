"""A placed problem's minibatches: streams of them through the layers' workers, and sums over the samples' workers."""

from contextlib import nullcontext

import torch

from .placed import PlacedBlocks
from .rows import Rows
from .schedules import Mailbox, Post, Stream, Wire, crossing, take_turns
from .statistics import SharedStatistics

__all__ = ["Placed", "SimulatedRow"]


class Placed(PlacedBlocks):
    """What stochastic methods need of a problem on a mesh."""

    # ---- minibatches
    def explicit_pass(self, theta, batches, update, parts=1):
        """A pass by the schedule: every worker calls update(k, gradient of its own parameters)."""
        mesh = self.mesh
        total = parts if parts > 1 else mesh.data if self.normalised and self.row_length == 1 else self.schedule.parts(mesh.data, self.row_length, self.deterministic)
        if len(batches[0][0]) < total:
            raise ValueError(f"{len(batches[0][0])} samples in a minibatch were given for {total} microbatches; use a larger batch_size or {type(self.schedule).__name__}(microbatches=...).")
        first, end = mesh.data_rank * total // mesh.data, (mesh.data_rank + 1) * total // mesh.data
        counts = [(d + 1) * total // mesh.data - d * total // mesh.data for d in range(mesh.data)]
        cut = lambda samples: samples.tensor_split(total)[first:end]
        losses = torch.zeros(len(batches), total, dtype=torch.float64)
        with SharedStatistics(mesh) if self.normalised and mesh.data > 1 else nullcontext():
            streams = self._streams(theta, batches, cut, lambda names: lambda k, parts: update(k, self._summed(names, parts, counts)))
        for stream in streams:
            for k, i, loss in stream.losses:
                losses[k, first + i] += float(loss)
        return mesh.total(losses).sum()

    @property
    def row_length(self):
        """Workers that a microbatch passes."""
        return self.mesh.layers

    def _streams(self, theta, batches, cut, update):
        """The streams that run here, once they have run."""
        mesh, p = self.mesh, self.problem
        stages = [p.stages[l - 1] for l in self.own]
        stream = Stream(p, stages, mesh.layer_rank, mesh.layers, crossing(p.stages, self.own.start - 1), crossing(p.stages, self.own.stop - 1), Wire(mesh, self.empty))
        for _ in stream.run(theta, batches, self.schedule, cut, update([n for s in stages for n in s.theta])):
            pass
        mesh.settle()
        return [stream]

    def _summed(self, names, parts, counts):
        """The gradient from those of the microbatches of all workers with these stages."""
        names = [name for name in dict.fromkeys(names) if name in parts[0]]
        if self.mesh.data == 1:
            total = list(parts[0].values()) if len(parts) == 1 else [parts[0][name] for name in names]
            for own in parts[1:]:
                total = torch._foreach_add(total, [own[name] for name in names])
            return dict(zip(names if len(parts) > 1 else parts[0], total))
        flat = torch.stack([torch.cat([own[name].reshape(-1) for name in names]) for own in parts])
        if self.deterministic:
            return self._split(names, self.mesh.ordered(flat, counts))
        flat = flat.sum(0)
        self.mesh.sum_data(flat).wait()
        return self._split(names, flat)

    def restrict(self, samples, seed=0):
        return Rows(self, samples, seed)

    def own_rows(self, rows, batches):
        """(places of this worker's samples among its own, how many of each minibatch)."""
        part = Rows(self, rows, 0)
        own = [torch.cat(part.own(s)) for s in batches]
        return torch.cat(own) - self.rows.start, [len(r) for r in own]

    @property
    def own_samples(self):
        return self.rows.stop - self.rows.start

    def mean_loss(self, theta):
        values = torch.zeros(self.shards, dtype=torch.float64)
        for i, part in enumerate(self.parts):
            values[self.first + i] = float(part.mean_loss(theta)) * part.samples
        return self.mesh.total(values).sum() / self.samples

    def mean_lipschitz(self, theta):
        return self.problem.mean_lipschitz(theta)

    def sample_lipschitz(self, theta):
        return self.problem.sample_lipschitz(theta)

    def table_obstacle(self):
        return self.problem.table_obstacle()

    def regularisation(self, theta):
        return self.nonsmooth_value({name: theta[name] for name in self.regularisers})


class SimulatedRow(Placed):
    """All workers of a row in one process: minibatches pass through the stages' groups as they would through workers."""

    def __init__(self, problem, mesh, cuts, *rest):
        super().__init__(problem, mesh, [range(1, problem.depth + 1)], *rest)
        self.groups = cuts

    @property
    def row_length(self):
        return len(self.groups)

    def _streams(self, theta, batches, cut, update):
        boxes, streams, runs, p = [Mailbox() for _ in range(len(self.groups) + 1)], [], [], self.problem
        for rank, group in enumerate(self.groups):
            stages = [p.stages[l - 1] for l in group]
            stream = Stream(p, stages, rank, len(self.groups), crossing(p.stages, group.start - 1), crossing(p.stages, group.stop - 1), Post(*boxes[rank:rank + 2]))
            streams.append(stream)
            runs.append(stream.run(theta, batches, self.schedule, cut, update([n for s in stages for n in s.theta])))
        take_turns(runs)
        return streams
