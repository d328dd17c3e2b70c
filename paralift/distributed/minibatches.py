"""A placed problem's minibatches: streams of them through the layers' workers, and sums over the samples' workers."""

from contextlib import nullcontext
from functools import cached_property

import torch

from .placed import PlacedBlocks
from .rows import Rows
from .schedules import Post, Stream, Wire, take_turns
from .statistics import SharedStatistics

__all__ = ["Placed", "SimulatedRow"]


class Placed(PlacedBlocks):
    """What stochastic methods need of a problem on a mesh."""

    # ---- minibatches
    def explicit_pass(self, theta, batches, update, parts=1, factor=lambda k: 1.0):
        """A pass by the schedule: every worker calls update(k, gradient of its own parameters)."""
        mesh = self.mesh
        size, given = len(batches[0][0]), parts if parts > 1 else self.schedule.microbatches
        if size < max(mesh.data, given or 1):
            raise ValueError(f"{size} samples in a minibatch were given for {max(mesh.data, given or 1)} microbatches; use a larger batch_size, fewer workers along data, or "
                             f"Workers(..., schedule={type(self.schedule).__name__}(microbatches=...)).")
        usual = mesh.data if self.normalised and self.row_length == 1 else self.schedule.parts(mesh.data, self.row_length, self.deterministic)
        total = max(mesh.data, min(given or usual, size))
        first, end = mesh.data_rank * total // mesh.data, (mesh.data_rank + 1) * total // mesh.data
        counts = [(d + 1) * total // mesh.data - d * total // mesh.data for d in range(mesh.data)]
        cut = lambda samples: list(enumerate(samples.tensor_split(total)))[first:end]
        with SharedStatistics(mesh) if self.normalised and mesh.data > 1 else nullcontext():
            streams = self._streams(theta, batches, cut, factor, lambda names: lambda k, parts: self._update(theta, k, self._summed(names, parts, counts), update))
        return self.table((len(batches), total), [((k, i), loss) for stream in streams for k, i, loss in stream.losses]).sum()

    def kept(self, theta):
        """What a method keeps beside the parameters is kept for these: all, or this worker's share."""
        if not self.sharded:
            return theta
        return {name: v if self._keeper[name] == self.mesh.data_rank else self.empty for name, v in theta.items()}

    @cached_property
    def _keeper(self):
        """{parameter: the data rank that keeps its metric}, about equal numbers for each."""
        filled, found = [0] * self.mesh.data, {}
        for name, v in sorted(self.problem.initial.items(), key=lambda pair: -pair[1].numel()):
            found[name] = min(range(self.mesh.data), key=filled.__getitem__)
            filled[found[name]] += v.numel()
        return found

    def _update(self, theta, k, gradient, update):
        if not gradient:                                           # of a worker whose parameters all lie with others
            return
        if not self.sharded:
            return update(k, gradient)
        groups = [[name for name in gradient if self._keeper[name] == d] for d in range(self.mesh.data)]
        update(k, {name: gradient[name] for name in groups[self.mesh.data_rank]})
        flats = [torch.cat([theta[name].reshape(-1) for name in group]) if group else self.empty for group in groups]
        self.mesh.share_out(flats)
        for group, flat in zip(groups, flats):
            for name, v in self.split(group, flat).items():
                theta[name].copy_(v)

    @property
    def row_length(self):
        """Workers that a microbatch passes."""
        return self.mesh.layers

    def _streams(self, theta, batches, cut, factor, update):
        """The streams that run here, once they have run."""
        stream = Stream(self.problem, self.cuts, self.mesh.layer_rank, Wire(self.mesh, self.empty, self.names), not self.deterministic)
        for _ in stream.run(theta, batches, self.schedule, cut, factor, update(stream.names)):
            pass
        self.mesh.settle()
        return [stream]

    def _summed(self, names, parts, counts):
        """The gradient from those of the microbatches of all workers with these stages."""
        names = [name for name in dict.fromkeys(names) if name in parts[0]]
        if not names or len(parts) == 1 and self.mesh.data == 1:
            return parts[0]
        if self.mesh.data == 1:
            return dict(zip(names, _added(names, parts)))
        if self.deterministic:
            flat = torch.stack([torch.cat([own[name].reshape(-1) for name in names]) for own in parts])
            return self.split(names, self.mesh.ordered(flat, counts))
        return self.split(names, self.mesh.sum_data([v.reshape(-1) for v in _added(names, parts)]).wait())

    def restrict(self, samples, seed=0):
        return Rows(self, samples, seed)

    def own_rows(self, rows, batches):
        """(places of this worker's samples among its own, how many of each minibatch)."""
        part = Rows(self, rows, 0)
        own = [torch.cat(part.own(s)) for s in batches]
        return (torch.cat(own) - self.rows.start).to(self.inputs.device), [len(r) for r in own]

    @property
    def own_samples(self):
        return self.rows.stop - self.rows.start

    def mean_loss(self, theta):
        values = [((self.first + i,), part.mean_loss(theta) * part.samples) for i, part in enumerate(self.parts)]
        return self.table((self.shards,), values).sum() / self.samples

    def mean_lipschitz(self, theta):
        return self.problem.mean_lipschitz(theta)

    def sample_lipschitz(self, theta):
        return self.problem.sample_lipschitz(theta)

    def table_obstacle(self):
        return self.problem.table_obstacle()

    def regularisation(self, theta):
        return self.nonsmooth_value({name: theta[name] for name in self.regularisers})


def _added(names, parts):
    """The sums of the parts' gradients, in their order."""
    total = [parts[0][name] for name in names]
    for own in parts[1:]:
        total = torch._foreach_add(total, [own[name] for name in names])
    return total


class SimulatedRow(Placed):
    """All workers of a row in one process: minibatches pass through the stages' groups as they would through workers."""

    def __init__(self, problem, mesh, cuts, *rest):
        super().__init__(problem, mesh, [range(1, problem.depth + 1)], *rest)
        self.groups = cuts

    @property
    def row_length(self):
        return len(self.groups)

    def _streams(self, theta, batches, cut, factor, update):
        boxes = {}
        streams = [Stream(self.problem, self.groups, rank, Post(boxes, rank), not self.deterministic) for rank in range(len(self.groups))]
        take_turns(s.run(theta, batches, self.schedule, cut, factor, update(s.names)) for s in streams)
        return streams
