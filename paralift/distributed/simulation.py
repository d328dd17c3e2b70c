"""Schedules of lifted training on any number of workers, simulated event by event from what stages and messages cost."""

import csv
import heapq
import itertools
import math
from collections import Counter, deque
from dataclasses import astuple, dataclass, fields

from ..arguments import checked
from ..files import replacing
from .costs import Link, StageCosts, layout_for, measured_costs, microbatch_counts

__all__ = ["SCHEDULES", "Simulation", "simulate"]

SCHEDULES = {
    "layers": "lifted, all blocks at once, layers split; the exchange of boundary x overlaps with interior stages",
    "data": "samples split; one ring all-reduce of all gradients at the end",
    "data_overlapped": "samples split; a ring all-reduce a stage, overlapped with the stages that follow",
    "mesh": "lifted, all blocks at once; the best mesh data x layers",
    "stream": "a pipeline of one forward and one backward in turn, without flush: minibatches follow each other, updates come late",
    "flush": "a pipeline with a flush a minibatch, all forwards first (GPipe)",
    "flush_1f1b": "a pipeline with a flush a minibatch, one forward and one backward in turn",
    "asynchronous": "PIAG: samples split, a master (a process of its own) applies each gradient as it arrives and sends the parameters back; an iteration is an update "
                    "for each worker",
}
_ITERATIONS = 10            # simulated; the pace is that of the second half


# ---- the machine
class _Clock:
    """Events in the order of time; workers choose (level 1) once all else at that time has happened."""

    def __init__(self):
        self.now, self._events, self._count = 0.0, [], itertools.count()

    def at(self, time, do, *args, level=0):
        heapq.heappush(self._events, (time, level, next(self._count), do, args))

    def run(self):
        while self._events:
            self.now, _, _, do, args = heapq.heappop(self._events)
            do(*args)


class _Wire:
    """One direction of a link: messages occupy it one after the other, and arrive `latency` later."""

    def __init__(self, clock):
        self.clock, self.free = clock, 0.0

    def send(self, occupied, latency, then, *args):
        self.free = max(self.free, self.clock.now) + occupied
        self.clock.at(self.free + latency, then, *args)


class _Worker:
    """Does its tasks one at a time: the first of the list whose needs have arrived; `in_order`: the first of the list, once its needs have arrived."""

    def __init__(self, clock, factor, in_order):
        self.clock, self.factor, self.in_order = clock, factor, in_order
        self.tasks, self.arrived, self.busy, self.idle = deque(), set(), 0.0, True

    def add(self, needs, seconds, done, *args):
        self.tasks.append((needs, seconds * self.factor, done, args))
        self._wake()

    def arrive(self, token):
        self.arrived.add(token)
        self._wake()

    def _wake(self):
        if self.idle and self.tasks:
            if self.in_order:
                self._choose()
            else:
                self.clock.at(self.clock.now, self._choose, level=1)

    def _choose(self):
        if not self.idle:
            return
        for i, (needs, seconds, done, args) in enumerate(self.tasks):
            if needs <= self.arrived:
                del self.tasks[i]
                self.idle, self.busy = False, self.busy + seconds
                self.clock.at(self.clock.now + seconds, self._finish, done, args)
                return
            if self.in_order:
                return

    def _finish(self, done, args):
        self.idle = True
        done(*args)
        self._wake()


def _pace(ends):
    """From one end to the next, on the mean."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)


class _Column:
    """What the schedules of one column of a mesh share: its workers, the wires between them, and one for the all-reduce of each worker with the other columns.

    factors : for each part of the layers those by which its workers, one a column, are slower.
    Results of a column: seconds_an_iteration, busy_seconds (computing in an iteration, added up over its workers, the mean of all columns), in_flight (rows).
    """

    def __init__(self, costs, layout, link, factors, in_order):
        self.costs, self.layout, self.link, self.clock, self.groups = costs, layout, link, _Clock(), layout.groups
        self.messages = costs.messages(layout.groups)
        self.sources = [[a for a, b in self.messages if b == k] for k in range(layout.layers)]
        self.readers = [[b for a, b in self.messages if a == k] for k in range(layout.layers)]
        self.workers = [_Worker(self.clock, max(part), in_order) for part in factors]
        self.mean_factors = [sum(part) / len(part) for part in factors]
        self.wires = {pair: _Wire(self.clock) for a, b in self.messages for pair in ((a, b), (b, a))}
        self.reducing = [_Wire(self.clock) for _ in self.groups]

    def send(self, a, b, rows, then, *args):
        """x from a to b, or its pull: rows of the same size."""
        self.wires[a, b].send(rows * self.messages[min(a, b), max(a, b)] / self.link.bandwidth, self.link.latency, then, *args)

    def reduce(self, k, stages, then, *args):
        """All-reduce of the gradients of worker k's `stages` with the other columns."""
        size = sum(self.costs.parameter_bytes[l] for l in stages)
        self.reducing[k].send(self.link.all_reduce(size, self.layout.data), 0.0, then, *args)

    def run(self, iterations):
        self.clock.run()
        self.busy_seconds = sum(worker.busy / worker.factor * mean for worker, mean in zip(self.workers, self.mean_factors)) / iterations


class _Jacobi(_Column):
    """All blocks at once: x to the readers, every stage, the pulls back; x goes out again when its pulls are in, a stage begins again when its parameters are summed."""

    def __init__(self, costs, layout, rows, link, factors, bucket_a_stage=False):
        super().__init__(costs, layout, link, factors, in_order=False)
        self.rows, self.in_flight, self.bucket_a_stage, self.seconds = rows, rows, bucket_a_stage, costs.seconds(rows)
        owner = {l: k for k, group in enumerate(self.groups) for l in group}
        self.outside = [{owner[p - 1] for p in parents if p} - {owner[l]} for l, parents in enumerate(costs.parents)]
        self.unpulled, self.computing, self.waiting = Counter(), Counter(), Counter()
        self.ends = [0.0] * _ITERATIONS
        for k in range(layout.layers):
            self._begin(k, 0)
        self.run(_ITERATIONS)
        self.seconds_an_iteration = _pace(self.ends[_ITERATIONS // 2:])

    def _begin(self, k, it):
        if it == _ITERATIONS:
            return
        group = self.groups[k]
        self.computing[k], self.waiting[k] = len(group), len(group) + len(self.readers[k])
        for a in self.sources[k]:
            self.unpulled[a, k] = sum(a in self.outside[l] for l in group)
        for b in self.readers[k]:
            self.send(k, b, self.rows, self.workers[b].arrive, ("x", it, k))
        for l in sorted(group, key=lambda l: not self.outside[l]):               # what others wait for comes first
            needs = {("x", it, a) for a in self.outside[l]}
            if it and self.layout.data > 1:
                needs.add(("theta", it - 1, l if self.bucket_a_stage else group.start))
            self.workers[k].add(needs, self.seconds[l], self._computed, k, l, it)

    def _computed(self, k, l, it):
        for a in self.outside[l]:
            self.unpulled[a, k] -= 1
            if not self.unpulled[a, k]:
                self.send(k, a, self.rows, self._part_done, a, it)
        self.computing[k] -= 1
        if self.layout.data > 1 and (self.bucket_a_stage or not self.computing[k]):
            stages = [l] if self.bucket_a_stage else self.groups[k]
            self.reduce(k, stages, self.workers[k].arrive, ("theta", it, stages[0]))
        self._part_done(k, it)

    def _part_done(self, k, it):
        self.waiting[k] -= 1
        if not self.waiting[k]:
            self.ends[it] = max(self.ends[it], self.clock.now)
            self._begin(k, it + 1)


class _Pipeline(_Column):
    """Microbatches forward and backward in a fixed order: worker k begins with depths[k] forwards, then one backward and one forward in turn.

    A turn is the pace of the slowest worker. On the way of a microbatch from worker k to b and back, depths[k] - depths[b] + 1 turns pass; depths are the least, from
    P - k on, at which that is enough for computing and messages on the way, up to 5 %.
    """

    def __init__(self, costs, layout, sizes, link, factors, schedule):
        super().__init__(costs, layout, link, factors, in_order=True)
        self.M, P = layout.microbatches, layout.layers
        seconds = costs.seconds(sizes[0])
        own = [worker.factor * sum(seconds[l] for l in group) for group, worker in zip(self.groups, self.workers)]
        exchange = [sum(2 * link.transfer(sizes[0] * self.messages[k, b]) for b in self.readers[k]) for k in range(P)]
        reduced = link.all_reduce(max(sum(costs.parameter_bytes[l] for l in group) for group in self.groups), layout.data) / self.M
        turn = max(*own, reduced, sizes[0] * max(self.messages.values(), default=0) / link.bandwidth, 1e-30)
        self.depths = [self.M] * P if schedule == "flush" else [1] * P
        for k in reversed(range(P - 1 if schedule != "flush" else 0)):
            ways = [self.depths[b] - 1 + math.ceil((sum(own[k:b + 1]) + sum(exchange[k:b])) / (1.05 * turn)) for b in range(k + 1, P)]
            self.depths[k] = max(P - k, *ways)
        fill = math.ceil(self.depths[0] / self.M)            # minibatches until the pipeline is full, and while it drains
        iterations = 2 * fill + max(3, fill + 1) + 1 if schedule == "stream" else 1
        self.sizes, self.ends = sizes * iterations, [0.0] * iterations
        times = {rows: (costs.forward_seconds(rows), costs.backward_seconds(rows)) for rows in set(sizes)}
        for k, group in enumerate(self.groups):
            for backwards, m in self._program(len(self.sizes), self.depths[k]):
                seconds = sum(times[self.sizes[m]][backwards][l] for l in group)
                if backwards:
                    self.workers[k].add({("pull", m, b) for b in self.readers[k]}, seconds, self._backward_done, k, m)
                else:
                    self.workers[k].add({("x", m, a) for a in self.sources[k]} | self._parameters(k, m), seconds, self._forward_done, k, m)
        self.run(iterations)
        self.seconds_an_iteration = _pace(self.ends[fill:-fill]) if schedule == "stream" else self.ends[0]
        self.in_flight = sum(self.sizes[:self.depths[0]])

    @staticmethod
    def _program(count, depth):
        """(backwards, microbatch), ..: the fixed order of a worker."""
        yield from ((0, m) for m in range(min(depth, count)))
        for m in range(count):
            yield 1, m
            if m + depth < count:
                yield 0, m + depth

    def _parameters(self, k, m):
        """A minibatch's first forward needs the sum of the last minibatch but one whose backwards were done before: one all-reduce may be under way."""
        ready = m // self.M - 2 - math.ceil((self.depths[k] - 1) / self.M)
        return {("theta", ready)} if self.layout.data > 1 and m % self.M == 0 and ready >= 0 else set()

    def _forward_done(self, k, m):
        for b in self.readers[k]:
            self.send(k, b, self.sizes[m], self.workers[b].arrive, ("x", m, k))

    def _backward_done(self, k, m):
        for a in self.sources[k]:
            self.send(k, a, self.sizes[m], self.workers[a].arrive, ("pull", m, k))
        if (m + 1) % self.M == 0:
            self.reduce(k, self.groups[k], self._updated, k, m // self.M)

    def _updated(self, k, iteration):
        self.ends[iteration] = max(self.ends[iteration], self.clock.now)
        self.workers[k].arrive(("theta", iteration))


def _asynchronous(costs, workers, rows, link, slow):
    """(seconds an iteration, busy seconds in it): each worker takes the gradient of its rows at the parameters it has, the master serves one message after the other."""
    clock, m = _Clock(), min(workers, rows)
    into, out = _Wire(clock), _Wire(clock)
    occupied, latency = (sum(costs.parameter_bytes) / link.bandwidth, link.latency) if m > 1 else (0.0, 0.0)
    own = [slow.get(i, 1.0) * sum(costs.seconds(rows // m + (i < rows % m))) for i in range(m)]
    crew, updates = [_Worker(clock, 1.0, True) for _ in range(m)], []

    def begin(i):
        crew[i].add(set(), own[i], into.send, occupied, latency, update, i)

    def update(i):
        updates.append((clock.now, own[i]))
        if len(updates) < _ITERATIONS * m:
            out.send(occupied, latency, begin, i)

    for i in range(m):
        begin(i)
    clock.run()
    begun, ended = updates[_ITERATIONS * m // 2 - 1][0], updates[_ITERATIONS * m - 1][0]
    computing = [seconds for time, seconds in updates if begun <= time < ended] or [0.0]
    return m * (ended - begun) / len(computing), m * sum(computing) / len(computing)


# ---- what is asked
@dataclass
class Run:
    """One schedule on a number of workers; seconds an iteration (a minibatch), idle the share of all workers' time, in_flight the samples begun and not finished."""

    schedule: str
    workers: int
    data: int
    layers: int
    microbatches: int
    seconds: float
    efficiency: float
    idle: float
    in_flight: int


@checked
def simulate(problem, workers=(1, 2, 4, 8, 16, 32, 64), batch_size=None, bandwidth=10e9, latency=20e-6, schedules=tuple(SCHEDULES), microbatches=None, slow=None):
    """Simulate schedules on numbers of workers: a Simulation, which prints as a table.

    problem : LiftedTraining, whose stages are timed here first, or StageCosts. batch_size : samples an iteration; all of the problem's if not given.
    bandwidth, latency : of every link, bytes/s and s; each pair of workers has a link of its own in either direction, the all-reduce a further one.
    schedules : names of SCHEDULES. microbatches : of a pipeline; if not given the best of 1 .. 64 with a flush, the number of layers for "stream".
    slow : {worker: factor}, workers that take so many times longer; worker c * layers + k has part k of the layers in column c. Numbers a run lacks are ignored.

    Layers are split first for "layers" and pipelines, samples first for "data"; workers beyond the stages (the rows) go along the other axis, and what is left idles.
    Columns of a mesh do the same work, so one is simulated, each part at the pace of its slowest worker, and the all-reduce is a ring with the other columns.
    Parts are balanced by `layouts`' model. Applying an update is taken to cost nothing.
    Raises ValueError in a sentence where a name or a number does not fit.
    """
    workers, schedules = ([workers] if isinstance(workers, int) else list(workers)), ([schedules] if isinstance(schedules, str) else list(schedules))
    unknown = [name for name in schedules if name not in SCHEDULES]
    if unknown:
        raise ValueError(f"simulate got the schedules {unknown}; it knows {', '.join(SCHEDULES)}.")
    batch_size = problem.samples if batch_size is None and not isinstance(problem, StageCosts) else batch_size
    numbers = [*(("workers", w) for w in workers), ("batch_size", batch_size), *((("microbatches", microbatches),) if microbatches is not None else ())]
    for name, value in numbers:
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"simulate got {name}={value!r}; it needs an integer >= 1.")
    link, slow = Link(latency, bandwidth), dict(slow or {})
    if any(not isinstance(i, int) or i < 0 or not factor > 0 for i, factor in slow.items()):
        raise ValueError(f"simulate got slow={slow!r}; it needs {{worker: factor}}, workers counted from 0, factors > 0 (2 takes twice as long).")
    costs = problem if isinstance(problem, StageCosts) else measured_costs(problem, batch_size)
    runs = [_run(costs, schedule, w, batch_size, link, microbatches, slow) for schedule in schedules for w in workers]
    return Simulation(runs, costs, link, batch_size)


def _run(costs, schedule, workers, rows, link, microbatches, slow):
    serial = sum(costs.seconds(rows))
    if schedule == "asynchronous":
        seconds, busy = _asynchronous(costs, workers, rows, link, slow)
        data, layers, count, in_flight = min(workers, rows), 1, 1, rows
    else:
        variants = ("layers", "data_overlapped") if schedule == "mesh" else (schedule,)
        found = [_column(costs, name, layout, rows, link, slow) for layout in _candidates(costs, schedule, workers, rows, link, microbatches) for name in variants]
        least = min(column.seconds_an_iteration for column in found)
        column = next(column for column in found if column.seconds_an_iteration <= (1 + 1e-9) * least)
        data, layers, count, seconds = column.layout.data, column.layout.layers, column.layout.microbatches, column.seconds_an_iteration
        busy, in_flight = data * column.busy_seconds, data * column.in_flight
    total = workers * seconds or 1.0
    return Run(schedule, workers, data, layers, count, seconds, serial / total, max(0.0, 1 - busy / total), in_flight)


def _candidates(costs, schedule, workers, rows, link, microbatches):
    """The layouts to simulate; the fastest counts, the first of equals."""
    deep, wide = min(costs.stages, workers), min(rows, workers)
    deep, wide = (min(rows, workers // deep), deep), (wide, min(costs.stages, workers // wide))
    kind = schedule if schedule in ("stream", "flush") else "flush" if schedule == "flush_1f1b" else "jacobi"
    if kind == "jacobi":
        divisors = [(workers // k, k) for k in range(1, deep[1] + 1) if workers % k == 0 and workers // k <= rows]
        meshes = {"mesh": sorted({deep, wide, *divisors}), "data": [wide], "data_overlapped": [wide]}.get(schedule, [deep])
        return [layout_for(costs, data, layers, rows, kind, link) for data, layers in meshes]
    counts = microbatch_counts(kind, deep[1], math.ceil(rows / deep[0]), microbatches)
    return [layout_for(costs, *deep, rows, kind, link, microbatches=m) for m in counts]


def _column(costs, schedule, layout, rows, link, slow):
    own = math.ceil(rows / layout.data)                     # of the column with most
    factors = [[slow.get(c * layout.layers + k, 1.0) for c in range(layout.data)] for k in range(layout.layers)]
    if schedule in ("stream", "flush", "flush_1f1b"):
        M = layout.microbatches
        return _Pipeline(costs, layout, [own // M + (m < own % M) for m in range(M)], link, factors, schedule)
    return _Jacobi(costs, layout, own, link, factors, schedule == "data_overlapped")


class Simulation:
    """What `simulate` found: `runs`, a table when printed, `.csv(path)`, `.plot(path)`."""

    columns = tuple(field.name for field in fields(Run))

    def __init__(self, runs, costs, link, batch_size):
        self.runs, self.costs, self.link, self.batch_size = runs, costs, link, batch_size

    def __repr__(self):
        L, serial = self.costs.stages, sum(self.costs.seconds(self.batch_size))
        links = f"{self.link.bandwidth:g} bytes/s and {1e6 * self.link.latency:g} us"
        lines = [f"{L} stages, {self.batch_size} samples an iteration, one worker {1e3 * serial:.4g} ms; links of {links}",
                 f"{'schedule':<16} {'workers':>7} {'data x layers':>13} {'microbatches':>12} {'ms':>10} {'speed-up':>9} {'efficiency':>10} {'idle':>7} {'in flight':>9}"]
        for run in self.runs:
            mesh = f"{run.data} x {run.layers}"
            lines.append(f"{run.schedule:<16} {run.workers:>7} {mesh:>13} {run.microbatches:>12} {1e3 * run.seconds:>10.4g} {run.efficiency * run.workers:>9.2f}"
                         f" {run.efficiency:>10.1%} {run.idle:>7.1%} {run.in_flight:>9}")
        return "\n".join(lines)

    def csv(self, path):
        """Write all runs to `path`."""
        with replacing(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(map(astuple, self.runs))

    def plot(self, path=None):
        """Seconds an iteration and efficiency over the number of workers, both axes logarithmic; returns the figure, and saves it where a path is given."""
        from matplotlib.figure import Figure

        from ..plotting import _saved

        fig = Figure(figsize=(11, 4.2), layout="constrained")
        axes = fig.subplots(1, 2)
        styles = itertools.product(("-", "--", ":", "-."), (0.0, 0.45))
        for name, marker, (line, grey) in zip(dict.fromkeys(run.schedule for run in self.runs), "osD^vPX*<", itertools.cycle(styles)):
            runs = sorted((run for run in self.runs if run.schedule == name), key=lambda run: run.workers)
            counts = [run.workers for run in runs]
            for ax, column in zip(axes, ("seconds", "efficiency")):
                ax.loglog(counts, [getattr(run, column) for run in runs], line, marker=marker, color=str(grey), markersize=5, label=name.replace("_", " "))
        for ax, text in zip(axes, ("seconds an iteration", "efficiency: speed-up / workers")):
            counts = sorted({run.workers for run in self.runs})
            counts = counts if len(counts) < 10 else counts[::2]
            ax.set_xticks(counts, labels=map(str, counts))
            ax.minorticks_off()
            ax.set_xlabel("workers"), ax.set_title(text), ax.grid(alpha=0.3)
        axes[1].legend(fontsize=8, loc="lower left")
        return _saved(fig, path)
