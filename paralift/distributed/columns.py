"""Schedules on the workers of one column of a mesh, event by event, in the order in which the library's workers do their work."""

import math
from collections import Counter

from .events import Clock, Cores, Wire, Worker
from .placed import BUCKET
from .schedules import SHARE

__all__ = ["Jacobi", "Pipeline", "asynchronous", "column"]

ITERATIONS = 10             # of those simulated; the pace is that of the second half


def column(costs, schedule, layout, rows, machine, slow, feedback=True):
    """The column of `layout` with most of the `rows`, after its run under a schedule that is synchronous along the samples."""
    own = math.ceil(rows / layout.data)
    factors = [[slow.get(c * layout.layers + k, 1.0) for c in range(layout.data)] for k in range(layout.layers)]
    if schedule in ("stream", "flush", "flush_1f1b"):
        M = layout.microbatches
        return Pipeline(costs, layout, [own // M + (m < own % M) for m in range(M)], machine, factors, schedule, feedback)
    return Jacobi(costs, layout, own, machine, factors, BUCKET if schedule == "data_overlapped" else math.inf)


class Column:
    """What the schedules share: the workers of a column, the wires between them, one for the all-reduce of each worker with the other columns, the column's share of the cores.

    factors : for each part of the layers those by which its workers, one a column, are slower.
    Results of a column: seconds_an_iteration, busy_seconds (computing in an iteration, added up over its workers, the mean of all columns), in_flight (rows).
    """

    def __init__(self, costs, layout, machine, factors):
        self.costs, self.layout, self.machine, self.groups, self.clock = costs, layout, machine, layout.groups, Clock()
        cores = Cores(self.clock, machine.cores / layout.data)                   # the columns do the same at the same time
        self.messages = costs.messages(layout.groups)
        self.sources = [[a for a, b in self.messages if b == k] for k in range(layout.layers)]
        self.readers = [[b for a, b in self.messages if a == k] for k in range(layout.layers)]
        self.workers = [Worker(cores, max(part)) for part in factors]
        self.mean_factors = [sum(part) / len(part) for part in factors]
        self.wires = {pair: Wire(cores, machine.messages.cores) for a, b in self.messages for pair in ((a, b), (b, a))}
        self.reducing = [Wire(cores, machine.sums.cores) for _ in self.groups]

    def send(self, a, b, rows, *token):
        """x from a to b, or its pull: rows of the same size; b has it as `token`."""
        link = self.machine.messages
        self.wires[a, b].send(rows * self.messages[min(a, b), max(a, b)] / link.bandwidth, link.latency, self.workers[b].arrive, token)

    def reduce(self, k, size, *token):
        """All-reduce of so many bytes of worker k's gradients with the other columns."""
        self.reducing[k].send(self.machine.sums.all_reduce(size, self.layout.data), 0.0, self.workers[k].arrive, token)

    def run(self, iterations):
        self.clock.run()
        self.busy_seconds = sum(worker.busy / worker.factor * mean for worker, mean in zip(self.workers, self.mean_factors)) / iterations


class Jacobi(Column):
    """All blocks at once: x goes to its readers; one stage is computed while theirs arrives, then those that need it, whose pulls go back at once, then the rest. Gradients are
    gathered and summed over the columns by the bucket. Once all pulls and sums have come the worker changes its blocks, and begins again."""

    def __init__(self, costs, layout, rows, machine, factors, bucket=math.inf):
        super().__init__(costs, layout, machine, factors)
        self.rows, self.in_flight, self.seconds, self.update = rows, rows, costs.seconds(rows), costs.update_seconds(rows)
        owner = {l: k for k, group in enumerate(self.groups) for l in group}
        self.outside = [{owner[p - 1] for p in parents if p} - {owner[l]} for l, parents in enumerate(costs.parents)]
        self.unpulled, self.ends, self.orders, self.full, self.rest = Counter(), [0.0] * ITERATIONS, [], {}, []     # full: {stage: bytes of the bucket that it fills}
        for k, group in enumerate(self.groups):
            near, far = ([l for l in group if bool(self.outside[l]) == away] for away in (False, True))
            self.orders.append(near[:1] + far + near[1:])
            size = 0.0
            for l in self.orders[k] if layout.data > 1 else ():
                size += costs.parameter_bytes[l]
                if size >= bucket:
                    self.full[l], size = size, 0.0
            self.rest.append(size)
            self._begin(k, 0)
        self.run(ITERATIONS)
        self.seconds_an_iteration = pace(self.ends[ITERATIONS // 2:])

    def _begin(self, k, it):
        worker = self.workers[k]
        for a in self.sources[k]:
            self.unpulled[a, k] = sum(a in self.outside[l] for l in self.groups[k])
        for b in self.readers[k]:
            self.send(k, b, self.rows, "x", it, k)
        for l in self.orders[k]:
            worker.add({("x", it, a) for a in self.outside[l]}, self.seconds[l], self._computed, k, l, it)
        pulls, sums = {("pull", it, b) for b in self.readers[k]}, {("sum", it, l) for l in self.groups[k] if l in self.full}
        if self.rest[k]:
            worker.add(pulls, 0.0, self.reduce, k, self.rest[k], "sum", it, None)
            sums.add(("sum", it, None))
        worker.add(pulls | sums, sum(self.update[l] for l in self.groups[k]), self._updated, k, it)

    def _computed(self, k, l, it):
        for a in self.outside[l]:
            self.unpulled[a, k] -= 1
            if not self.unpulled[a, k]:
                self.send(k, a, self.rows, "pull", it, k)
        if l in self.full:
            self.reduce(k, self.full[l], "sum", it, l)

    def _updated(self, k, it):
        self.ends[it] = max(self.ends[it], self.clock.now)
        if it + 1 < ITERATIONS:
            self._begin(k, it + 1)


class Pipeline(Column):
    """Microbatches forward and backward in a fixed order: worker k of P begins with P - k forwards ("flush" with all), then one backward and one forward in turn, and changes its
    parameters after the last backward of a minibatch, when they are summed over the columns. Only a "stream" goes on with the next minibatch before."""

    def __init__(self, costs, layout, sizes, machine, factors, schedule, feedback):
        super().__init__(costs, layout, machine, factors)
        self.M, P, stream = layout.microbatches, layout.layers, schedule == "stream"
        depths = [self.M] * P if schedule == "flush" else [P - k for k in range(P)]
        fill = math.ceil(depths[0] / self.M)                 # minibatches until the pipeline is full, and while it drains
        iterations = 2 * fill + max(3, fill + 1) + 1 if stream else 3
        self.sizes, self.ends = sizes * iterations, [0.0] * iterations
        times = {rows: (costs.forward_seconds(rows), costs.backward_seconds(rows)) for rows in set(sizes)}
        update = costs.update_seconds(sum(sizes))
        for k, (group, depth) in enumerate(zip(self.groups, depths)):
            size = sum(costs.parameter_bytes[l] for l in group) if layout.data > 1 else 0.0
            behind = sum(math.ceil(rows / SHARE) for rows in sorted(sizes)[:depth - 1]) if stream and feedback else 0       # rows that meet an update on their way and ask for it
            gathered = sum(costs.output_bytes[p] for l in group for p in (l, *(p - 1 for p in costs.parents[l] if p))) * sum(sizes)         # residuals and inputs of a gradient
            changing = machine.gather * gathered + sum(update[l] for l in group) + (sum(costs.forward_seconds(behind)[l] for l in group if l < costs.stages - 1) if behind else 0.0)
            programs = [(len(self.sizes), 0)] if stream else [(self.M, it * self.M) for it in range(iterations)]
            for backwards, m in (step for count, first in programs for step in self._program(count, depth, first)):
                seconds = sum(times[self.sizes[m]][backwards][l] for l in group)
                if not backwards:
                    self.workers[k].add({("x", m, a) for a in self.sources[k]}, seconds + machine.visit, self._forward_done, k, m)
                    continue
                self.workers[k].add({("pull", m, b) for b in self.readers[k]}, seconds, self._backward_done, k, m)
                if (m + 1) % self.M == 0:
                    sums = set()
                    if size:
                        self.workers[k].add(set(), 0.0, self.reduce, k, size, "sum", m)
                        sums = {("sum", m)}
                    self.workers[k].add(sums, changing, self._updated, m // self.M)
        self.run(iterations)
        self.seconds_an_iteration = pace(self.ends[fill:-fill] if stream else self.ends)
        self.in_flight = sum((self.sizes if stream else sizes)[:depths[0]])

    @staticmethod
    def _program(count, depth, first):
        """(backwards, microbatch), ..: the fixed order of a worker, for so many microbatches from the `first`."""
        yield from ((0, first + m) for m in range(min(depth, count)))
        for m in range(count):
            yield 1, first + m
            if m + depth < count:
                yield 0, first + m + depth

    def _forward_done(self, k, m):
        for b in self.readers[k]:
            self.send(k, b, self.sizes[m], "x", m, k)

    def _backward_done(self, k, m):
        for a in self.sources[k]:
            self.send(k, a, self.sizes[m], "pull", m, k)

    def _updated(self, it):
        self.ends[it] = max(self.ends[it], self.clock.now)


def asynchronous(costs, workers, rows, machine, slow):
    """(seconds an iteration, busy seconds in it): each worker takes the gradient of its rows at the parameters it has; the master, one more, serves message after message."""
    clock, m, link = Clock(), min(workers, rows), machine.messages
    cores = Cores(clock, machine.cores)
    into, out = Wire(cores, link.cores), Wire(cores, link.cores)
    occupied, latency = (sum(costs.parameter_bytes) / link.bandwidth, link.latency) if m > 1 else (0.0, 0.0)
    own = [slow.get(i, 1.0) * sum(costs.seconds(rows // m + (i < rows % m))) for i in range(m)]
    crew, master, update, updates = [Worker(cores) for _ in range(m)], Worker(cores), sum(costs.update_seconds(rows)), []

    def begin(i):
        crew[i].add(set(), own[i], into.send, occupied, latency, master.add, set(), update, updated, i)

    def updated(i):
        updates.append((clock.now, own[i]))
        if len(updates) < ITERATIONS * m:
            out.send(occupied, latency, begin, i)

    for i in range(m):
        begin(i)
    clock.run()
    begun, ended = updates[ITERATIONS * m // 2 - 1][0], updates[ITERATIONS * m - 1][0]
    computing = [seconds for time, seconds in updates if begun <= time < ended] or [0.0]
    return m * (ended - begun) / len(computing), m * sum(computing) / len(computing)


def pace(ends):
    """From one end to the next, on the mean."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)
