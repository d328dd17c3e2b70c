"""A lifted problem that lies on a mesh: each worker holds its stages' parameters and x, for its samples, and solvers see the contract of every problem."""

from functools import cached_property, reduce

import torch

from ..problems.problem import Linearisation, Problem
from ..problems.stagewise import gram, gram_norm
from .blocks import Blocks

__all__ = ["PlacedBlocks"]

BUCKET = 2**23                   # bytes of gradients summed over workers at a time


class PlacedBlocks(Blocks):
    """The contract of a problem, on a mesh: values and gradients of the stages that lie here, exchanged with the workers that need them."""

    # ---- points
    def start_theta(self):
        return {k: v if self.here(k) else self.empty for k, v in self.problem.start_theta().items()}

    def start(self):
        """The forward pass of this worker's samples, of which it keeps its stages' x."""
        theta, lowest = self.problem.start_theta(), self.problem.lowest
        pieces = {} if lowest else {"x0": [part.inputs for part in self.parts]}
        for part in self.parts:
            values = {} if lowest else {0: part.inputs}
            for s in self.problem.stages[:self.own.stop - 1]:
                if s.index < self.problem.depth:
                    point = {**theta, **{f"x{p}": values[p] for p in s.parents if p >= lowest}}
                    values[s.index] = s.penalty.activation(s.forward(part._input(s, point), point, part.seed, update_buffers=True))
                    for p in [p for p in values if p not in self.own and all(c.index <= s.index for c in self._children(p))]:
                        del values[p]
            for l in self.own:
                if l < self.problem.depth:
                    pieces.setdefault(f"x{l}", []).append(values[l])
        x = {name: torch.cat(v) if len(v) > 1 else v[0] for name, v in pieces.items()}
        return {k: (x[k] if k in x else theta[k]) if self.here(k) else self.empty for k in self.names}

    def _children(self, p):
        return [s for s in self.problem.stages if p in s.parents]

    # ---- one exchange with the neighbours
    def _plan(self, blocks):
        """Who needs what of whom to evaluate the stages that `blocks` touch: own stages (stage, theta, wanted, need_out); names to send to and to receive from workers, and the
        gradients that go back."""
        key = None if blocks is None else frozenset(blocks)
        if key not in self._traffic:
            touched, me = list(self.problem.touched_stages(blocks)), self.mesh.layer_rank
            sends, receives, returns, awaits, own = [], [], [], [], []
            for stage, theta, wanted, need_out in touched:
                w, l = self.worker[stage.index], stage.index
                needs = [f"x{p}" for p in stage.parents if p] + list(stage.theta)
                back = {f"x{p}" for p, want in zip(stage.parents, wanted) if want} | set(theta)
                if w == me:
                    own.append((stage, theta, wanted, need_out))
                    receives += [(name, self.owner[name]) for name in needs if not self.here(name)]
                    returns += [(l, name, self.owner[name]) for name in needs if not self.here(name) and name in back]
                else:
                    sends += [(name, w) for name in needs if self.here(name)]
                    awaits += [(l, name, w) for name in needs if self.here(name) and name in back]
            unique = lambda pairs: sorted(dict.fromkeys(pairs), key=lambda pair: (self.position[pair[0]], pair[1]))
            far = {t[0].index for t in own if any(not self.here(n) for n in [f"x{p}" for p in t[0].parents if p] + list(t[0].theta))}
            near = [t for t in own if t[0].index not in far]
            order = near[:1] + [t for t in own if t[0].index in far] + near[1:]       # one stage's work while the messages arrive; theirs first, as others wait for it
            self._traffic[key] = (order, far, unique(sends), unique(receives), list(dict.fromkeys(returns)), list(dict.fromkeys(awaits)))
        return self._traffic[key]

    def _post(self, point, sends, receives):
        """Views of the point for each part, and what is on its way to them."""
        self.mesh.settle()
        for name, w in sends:
            self.mesh.send(point[name], w, self.position[name])
        arrivals = []
        for name, w in receives:
            if name not in self._buffers:
                self._buffers[name] = self.memory(name)
            arrivals.append((name, self._buffers[name], self.mesh.receive(self._buffers[name], w, self.position[name])))
        return [self._view(point, i) for i in range(len(self.parts))], arrivals

    def _view(self, point, i):
        if len(self.parts) == 1:
            return dict(point)
        return {k: v[self.local[i]] if self.is_x(k) and v.numel() else v for k, v in point.items()}

    def _land(self, views, arrivals):
        for name, buffer, work in arrivals:
            work.wait()
            for view, rows in zip(views, self.local):
                view[name] = buffer if len(views) == 1 or not self.is_x(name) else buffer[rows]
        arrivals.clear()

    def _tag(self, l, name):
        return (l + 1) * len(self.names) + self.position[name]

    # ---- the contract
    def gradient(self, point, blocks=None):
        return self.linearise(point, blocks, value=False).gradient

    def linearise(self, point, blocks=None, value=True):
        order, far, sends, receives, returns, awaits = self._plan(blocks)
        views, arrivals = self._post(point, sends, receives)
        values, found, buckets, bucket = [], {}, [], []          # found: {block: [(stage, part, tensor)]}
        coming = [(l, name, self._landing(l, name), w) for l, name, w in awaits]
        coming = [(l, name, b, self.mesh.receive(b, w, self._tag(l, name))) for l, name, b, w in coming]
        for stage, theta, wanted, need_out in order:
            l = stage.index
            if l in far:
                self._land(views, arrivals)
                for part in self.parts:
                    part.forget(stage)                          # what arrives is written where the last one was
            for i, (part, view) in enumerate(zip(self.parts, views)):
                term, grads = part.stage_terms(stage, view, theta, wanted, need_out, self.samples, value)
                if value:
                    values.append(((l - 1, self.first + i), term))
                for name, g in grads:
                    found.setdefault(name, []).append((l, i, g))
            for _, name, w in (r for r in returns if r[0] == l):
                mine = [g for _, _, g in found.pop(name)]        # a block of another worker: this stage's part goes there at once
                self.mesh.send(mine[0] if len(mine) == 1 else torch.cat(mine) if self.is_x(name) else torch.stack(mine), w, self._tag(l, name))
            if not self.deterministic and self.mesh.data > 1:
                bucket += [name for name in stage.theta if name in found and self.here(name) and not any(n == name for _, n, _ in awaits) and self._last_user(name) == l]
                if sum(found[name][0][2].numel() for name in bucket) * self.empty.element_size() >= BUCKET:
                    buckets.append(self._sum_bucket(bucket, found))
                    bucket = []
        self._land(views, arrivals)
        for l, name, buffer, work in coming:
            work.wait()
            pieces = [buffer] if len(self.parts) == 1 else [buffer[rows] for rows in self.local] if self.is_x(name) else list(buffer)
            found.setdefault(name, []).extend((l, i, g) for i, g in enumerate(pieces))
        gradient = self._assemble(found, buckets, [n for n in self.names if self.is_x(n) or n in self.problem.trained] if blocks is None else blocks)
        if not value:
            return Linearisation(None, gradient)
        return Linearisation(self.table((self.problem.depth, self.shards), values).sum() / self.samples, gradient)

    def table(self, shape, values):
        """The table of `values` [(place, 0-d tensor)], each from the worker that has it, on all workers; they leave the device together."""
        table = torch.zeros(shape, dtype=torch.float64)
        if values:
            places, numbers = zip(*values)
            table.index_put_(torch.tensor(places).unbind(1), torch.stack([v.to(torch.float64) for v in numbers]).cpu(), accumulate=True)
        return self.mesh.total(table)

    def _last_user(self, name):
        return max(s.index for s in self.problem.stages if name in s.theta)

    def _landing(self, l, name):
        """Memory for the part of a block's gradient that comes from stage l of another worker."""
        key = (l, name)
        if key not in self._buffers:
            own = self.memory(name)
            self._buffers[key] = own if self.is_x(name) or len(self.parts) == 1 else own.new_empty(len(self.parts), *own.shape)
        return self._buffers[key]

    def _sum_parts(self, terms):
        """[sum over the stages, in their order] for each part."""
        sums = [None] * len(self.parts)
        for _, i, g in sorted(terms, key=lambda t: t[0]):
            sums[i] = g if sums[i] is None else sums[i] + g
        return sums

    def _sum_bucket(self, names, found):
        """Begin the sum over the data axis of some parameters' gradients, in one message."""
        return names, self.mesh.sum_data([reduce(torch.add, self._sum_parts(found.pop(name))).reshape(-1) for name in names])

    def _assemble(self, found, buckets, names):
        gradient = {name: self.empty for name in self.names if name in names}
        theta = [name for name in self.names if name in found and not self.is_x(name)]
        for name in [n for n in found if self.is_x(n)]:
            sums = self._sum_parts(found[name])
            gradient[name] = sums[0] if len(sums) == 1 else torch.cat(sums)
        if theta and (self.deterministic or self.mesh.data == 1):
            per = {name: self._sum_parts(found[name]) for name in theta}
            if self.mesh.data == 1:
                gradient.update({name: self.mesh.ordered(v, self.counts) if len(v) > 1 else v[0] for name, v in per.items()})
            else:
                flat = torch.stack([torch.cat([per[name][i].reshape(-1) for name in theta]) for i in range(len(self.parts))])
                gradient.update(self.split(theta, self.mesh.ordered(flat, self.counts)))
        elif theta:
            buckets.append(self._sum_bucket(theta, found))
        for group, work in buckets:
            gradient.update(self.split(group, work.wait()))
        return gradient

    def split(self, names, flat):
        shapes = [self.problem.initial[name].shape for name in names]
        return {name: v.view(s) for name, v, s in zip(names, flat.split([s.numel() for s in shapes]), shapes)}

    def smooth_value(self, point, blocks=None):
        return self._values(point, blocks).sum() / self.samples

    def _values(self, point, blocks):
        """(stages, shards): the terms of F that depend on the blocks, of all workers."""
        order, far, sends, receives, *_ = self._plan(blocks)
        views, arrivals = self._post(point, sends, receives)
        values = []
        for stage, *_ in order:
            if stage.index in far:
                self._land(views, arrivals)
                for part in self.parts:
                    part.forget(stage)
            for i, (part, view) in enumerate(zip(self.parts, views)):
                values.append(((stage.index - 1, self.first + i), part.stage_value(stage, view, part._z(stage, view))))
        self._land(views, arrivals)
        return self.table((self.problem.depth, self.shards), values)

    def group_values(self, point, groups):
        values = self._values(point, [k for group in groups for k in group]).sum(1) / self.samples
        stages = [[touched[0].index - 1 for touched in self.problem.touched_stages(group)] for group in groups]
        return [float(values[rows].sum()) for rows in stages]

    def nonsmooth_value(self, point):
        values = []
        for name in (n for n in self.names if n in point and self.here(n)):
            if self.is_x(name):
                values += [((self.position[name], self.first + i), self.problem.block_value(int(name[1:]), point[name][rows]) / self.samples) for i, rows in enumerate(self.local)]
            elif name in self.regularisers and self.mesh.data_rank == 0:
                values.append(((self.position[name], 0), self.regularisers[name](point[name])))
        return self.table((len(self.names), self.shards), values).sum()

    def prox(self, point, steps):
        return {**point, **self.problem.prox({k: v for k, v in point.items() if v.numel()}, steps)}

    def inner(self, a, b):
        return self._products(a, b).sum()

    def inners(self, a, b):
        values = self._products(a, b).sum(1)
        return {name: float(values[self.position[name]]) for name in a}

    def _products(self, a, b):
        """(blocks, shards): <a, b> of every block, of all workers."""
        values = []
        for name in (n for n in a if self.here(n)):
            u, v = a[name], b[name]
            if self.is_x(name):
                values += [((self.position[name], self.first + i), Problem.inner(self, {0: u[rows]}, {0: v[rows]})) for i, rows in enumerate(self.local)]
            elif self.mesh.data_rank == 0:
                values.append(((self.position[name], 0), Problem.inner(self, {0: u}, {0: v})))
        return self.table((len(self.names), self.shards), values)

    def lipschitz(self, point, blocks=None):
        """Bounds for all blocks: for parameters the sum of the shards' bounds, for x the largest."""
        order, far, sends, receives, *_ = self._plan(blocks)
        views, arrivals = self._post(point, sends, receives)
        self._land(views, arrivals)
        found = torch.zeros(len(self.names), self.problem.depth, self.shards, dtype=torch.float64)
        for stage, theta, wanted, need_out in order:
            l = stage.index
            whole = theta and stage.is_linear_layer
            if whole and (self.mesh.data_rank == 0 or self.mesh.data > 1):
                xs = [part._input(stage, view) for part, view in zip(self.parts, views)]
                norm = gram_norm([x.reshape(-1, x.shape[-1]) for x in xs], "bias" in stage.names, self._ordered)
                for name in theta if self.mesh.data_rank == 0 else ():
                    found[self.position[name], l - 1, 0] = self.problem.slope(stage) * norm / self.samples
            for i, (part, view) in enumerate(zip(self.parts, views)):
                part.forget(stage)
                for name, bound in part.stage_bounds(stage, view, () if whole else theta, wanted, need_out, self.samples).items():
                    found[self.position[name], l - 1, self.first + i] = bound
        self.mesh.total(found)
        names = [n for n in self.names if (n in self.problem.trained or self.is_x(n)) and (blocks is None or n in blocks)]
        return {n: float((found[self.position[n]].amax(1) if self.is_x(n) else found[self.position[n]].sum(1)).sum()) for n in names}

    def _ordered(self, parts):
        """The sum over all shards, of the workers that own the same stages."""
        return self.mesh.ordered(torch.stack(parts), self.counts)

    def majoriser(self, point, blocks):
        stage = self.problem.majorised_stage(point, blocks)
        if stage is None:
            return None
        order, far, sends, receives, *_ = self._plan(blocks)
        views, arrivals = self._post(point, sends, receives)
        self._land(views, arrivals)
        if self.worker[stage.index] != self.mesh.layer_rank:
            return lambda gradient: gradient                       # empty, here
        xs = [part._input(stage, view) for part, view in zip(self.parts, views)]
        return self.problem.majoriser_from(stage, self._ordered([gram(x.reshape(-1, x.shape[-1]), "bias" in stage.names) for x in xs]))

    def input_gradient(self, point, tie, weight):
        """Of this worker's samples."""
        return torch.cat([part.input_gradient(self._view(point, i), tie, weight) for i, part in enumerate(self.parts)])

    def input_prox(self, x, step, weight=1.0):
        return self.problem.input_prox(x, step, weight)

    def input_value(self, point):
        values = [((self.first + i,), part.input_value(self._view(point, i)).double() * part.samples) for i, part in enumerate(self.parts)]
        return self.table((self.shards,), values).sum() / self.samples

    def sweep_order(self):
        return self.problem.sweep_order()

    def colours(self):
        return self.problem.colours()

    # ---- what the history shows, and what the user takes away
    def metrics(self, point):
        columns = {}
        if self.problem.validation is not None or self.normalised:      # these need the whole network, on worker 0
            whole = self._network_point(point)
            self.buffers()
            columns = self.mesh.objects(self.problem.metrics(whole) if self.leads else {})[0]
        if "x1" in point:
            columns["penalty_residual"] = self._penalty_residual(point)
        return columns

    def _penalty_residual(self, point):
        order, far, sends, receives, *_ = self._plan(None)
        views, arrivals = self._post(point, sends, receives)
        self._land(views, arrivals)
        squares = []
        for stage, *_ in (t for t in order if t[0].index < self.problem.depth):
            for i, (part, view) in enumerate(zip(self.parts, views)):
                if stage.index in far:
                    part.forget(stage)
                p = stage.penalty.activation(part._z(stage, view))
                squares += [((k, stage.index - 1, self.first + i), torch.linalg.vector_norm(v).double().square()) for k, v in enumerate((view[f"x{stage.index}"] - p, p))]
        d, p = self.table((2, self.problem.depth, self.shards), squares).sum(2).sqrt()
        return float((d / p.clamp(min=1e-30))[:-1].max())

    def finish(self, point):
        self.buffers()
        inputs = {} if self.problem.lowest else {"x0": self._collect("x0", point["x0"])}
        return self.problem.finish({**self._network_point(point), **inputs})

    def _network_point(self, point):
        """All parameters, and a sign whether the point holds x."""
        return {**self.whole_theta(point), **({"x1": self.empty} if "x1" in point else {})}

    def buffers(self):
        """Running statistics, from the workers whose stages they belong to."""
        for name, b in self.problem.network.named_buffers():
            if self.mesh.layers > 1:
                self.mesh.broadcast(b, self.buffer_owner.get(name, 0))
        return self.problem.buffers()

    @cached_property
    def buffer_owner(self):
        places = {b.data_ptr(): self.worker[s.index] for s in self.problem.stages for b in s.module.buffers()}
        return {name: places.get(b.data_ptr(), 0) for name, b in self.problem.network.named_buffers()}

    def set_buffers(self, buffers):
        self.problem.set_buffers(buffers)
