"""Schedules of lifted training on any number of workers, simulated event by event from what stages and messages cost."""

import csv
import itertools
import math
import os
from dataclasses import astuple, dataclass, fields
from typing import Annotated, Any

from ..arguments import Count, Extended, Integers, Kind, Names, check, checked
from ..files import replacing
from ..problems.lifted_training import LiftedTraining
from .columns import asynchronous, column
from .costs import Link, StageCosts, layout_for, measured_costs, microbatch_counts
from .machine import Machine

__all__ = ["SCHEDULES", "Simulation", "simulate"]

SCHEDULES = {
    "layers": "lifted, all blocks at once, layers split; the exchange of boundary x overlaps with interior stages",
    "data": "samples split; one ring all-reduce of all gradients at the end",
    "data_overlapped": "samples split; a ring all-reduce for every 8 MiB of gradients, overlapped with the stages that follow",
    "mesh": "lifted, all blocks at once; the best mesh data x layers, or the one asked for",
    "stream": "a pipeline of one forward and one backward in turn, without flush: minibatches follow each other, updates come late, with feedback of them",
    "flush": "a pipeline with a flush a minibatch, all forwards first (GPipe)",
    "flush_1f1b": "a pipeline with a flush a minibatch, one forward and one backward in turn",
    "asynchronous": "PIAG: samples split, a master (a process of its own) applies each gradient as it arrives and sends the parameters back; an iteration is an update "
                    "for each worker",
}

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

Costs = Annotated[LiftedTraining | StageCosts, Kind("a LiftedTraining or a StageCosts", lambda v: isinstance(v, (LiftedTraining, StageCosts)))]


@checked
def simulate(problem: Costs, workers: Integers = (1, 2, 4, 8, 16, 32, 64), batch_size: Count | None = None, bandwidth: Extended = 10e9,
             latency: float = 20e-6, schedules: Names = tuple(SCHEDULES), microbatches: Count | None = None, slow: dict[int, float] | None = None, layers: Count | None = None,
             machine: Machine | None = None, feedback: bool = True) -> "Simulation":
    """Simulate schedules on numbers of workers: a Simulation, which prints as a table.

    problem : LiftedTraining, whose stages are timed here first, or StageCosts. batch_size : samples an iteration; all of the problem's if not given.
    bandwidth, latency : of every link, bytes/s and s; each pair of workers has a link of its own in either direction, the all-reduce a further one.
    machine : a Machine in their place, given or measured by `calibrate()`: cores that all workers and their messages share. If not given every worker has a core of its own and
        the network needs none.
    schedules : names of SCHEDULES. microbatches : of a pipeline; if not given the best of 1 .. 64 with a flush, the number of layers for "stream".
    slow : {worker: factor}, workers that take so many times longer; worker c * layers + k has part k of the layers in column c. Numbers a run lacks are ignored.
    layers : of the mesh; if not given layers are split first for "layers" and pipelines, samples first for "data", all meshes are tried for "mesh"; workers beyond the stages (the
        rows) go along the other axis, and what is left idles. feedback : whether streams ask it, as `Streamed()` does.

    Columns of a mesh do the same work, so one is simulated, each part at the pace of its slowest worker, and the all-reduce is a ring with the other columns.
    Parts are balanced by `layouts`' model. Efficiency compares with one worker: the stages and the update (`StageCosts.update`; nothing unless measured).
    Raises ValueError in a sentence where a name or a number does not fit.
    """
    workers, schedules = ([workers] if isinstance(workers, int) else list(workers)), ([schedules] if isinstance(schedules, str) else list(schedules))
    unknown = [name for name in schedules if name not in SCHEDULES]
    if unknown:
        raise ValueError(f"simulate got the schedules {unknown}; it knows {', '.join(SCHEDULES)}.")
    rows = problem.samples if batch_size is None and isinstance(problem, LiftedTraining) else batch_size
    if rows is None:
        raise ValueError("simulate got StageCosts and batch_size=None; it needs the samples of an iteration.")
    for w in workers:
        check("simulate", "workers", Count, w)
    slow = dict(slow or {})
    if any(not isinstance(i, int) or i < 0 or not factor > 0 for i, factor in slow.items()):
        raise ValueError(f"simulate got slow={slow!r}; it needs {{worker: factor}}, workers counted from 0, factors > 0 (2 takes twice as long).")
    link = Link(latency, bandwidth)
    machine = Machine(link, link) if machine is None else machine
    costs = problem if isinstance(problem, StageCosts) else measured_costs(problem, rows)
    if layers is not None and any(layers > costs.stages or w % layers or w // layers > rows for w in workers):
        raise ValueError(f"simulate got layers={layers} for workers={workers}, {costs.stages} stages and {rows} rows; it needs layers <= stages that divide every number of "
                         "workers, and workers / layers <= rows.")
    runs = [_run(costs, schedule, w, rows, machine, microbatches, slow, layers, feedback) for schedule in schedules for w in workers]
    return Simulation(runs, costs, machine, rows)


def _run(costs, schedule, workers, rows, machine, microbatches, slow, layers, feedback):
    if schedule == "asynchronous":
        seconds, busy = asynchronous(costs, workers, rows, machine, slow)
        data, layers, count, in_flight = min(workers, rows), 1, 1, rows
    else:
        variants = ("layers", "data_overlapped") if schedule == "mesh" else (schedule,)
        found = [column(costs, name, layout, rows, machine, slow, feedback) for layout in _candidates(costs, schedule, workers, rows, machine.messages, microbatches, layers)
                 for name in variants]
        least = min(c.seconds_an_iteration for c in found)
        best = next(c for c in found if c.seconds_an_iteration <= (1 + 1e-9) * least)
        data, layers, count, seconds = best.layout.data, best.layout.layers, best.layout.microbatches, best.seconds_an_iteration
        busy, in_flight = data * best.busy_seconds, data * best.in_flight
    total = workers * seconds or 1.0
    return Run(schedule, workers, data, layers, count, seconds, costs.serial_seconds(rows) / total, max(0.0, 1 - busy / total), in_flight)


def _candidates(costs, schedule, workers, rows, link, microbatches, layers):
    """The layouts to simulate; the fastest counts, the first of equals."""
    deep, wide = min(costs.stages, workers), min(rows, workers)
    deep, wide = (min(rows, workers // deep), deep), (wide, min(costs.stages, workers // wide))
    if layers is not None:
        deep = wide = (workers // layers, layers)
    kind = schedule if schedule in ("stream", "flush") else "flush" if schedule == "flush_1f1b" else "jacobi"
    if kind == "jacobi":
        divisors = [(workers // k, k) for k in range(1, deep[1] + 1) if workers % k == 0 and workers // k <= rows and layers in (None, k)]
        meshes = {"mesh": sorted({deep, wide, *divisors}), "data": [wide], "data_overlapped": [wide]}.get(schedule, [deep])
        return [layout_for(costs, *mesh, rows, kind, link) for mesh in meshes]
    counts = microbatch_counts(kind, deep[1], math.ceil(rows / deep[0]), microbatches)
    return [layout_for(costs, *deep, rows, kind, link, microbatches=m) for m in counts]


class Simulation:
    """What `simulate` found: `runs`, a table when printed, `.csv(path)`, `.plot(path)`."""

    columns = tuple(field.name for field in fields(Run))

    def __init__(self, runs: list[Run], costs: StageCosts, machine: Machine, batch_size: int):
        self.runs, self.costs, self.machine, self.batch_size = runs, costs, machine, batch_size

    def __repr__(self):
        L, serial, link, cores = self.costs.stages, self.costs.serial_seconds(self.batch_size), self.machine.messages, self.machine.cores
        links = f"{link.bandwidth:g} bytes/s and {1e6 * link.latency:g} us; {'a core each' if cores == math.inf else f'{cores:g} cores'}"
        lines = [f"{L} stages, {self.batch_size} samples an iteration, one worker {1e3 * serial:.4g} ms; links of {links}",
                 f"{'schedule':<16} {'workers':>7} {'data x layers':>13} {'microbatches':>12} {'ms':>10} {'speed-up':>9} {'efficiency':>10} {'idle':>7} {'in flight':>9}"]
        for run in self.runs:
            mesh = f"{run.data} x {run.layers}"
            lines.append(f"{run.schedule:<16} {run.workers:>7} {mesh:>13} {run.microbatches:>12} {1e3 * run.seconds:>10.4g} {run.efficiency * run.workers:>9.2f}"
                         f" {run.efficiency:>10.1%} {run.idle:>7.1%} {run.in_flight:>9}")
        return "\n".join(lines)

    def csv(self, path: str | os.PathLike) -> None:
        """Write all runs to `path`."""
        with replacing(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(map(astuple, self.runs))

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Seconds an iteration and efficiency over the number of workers, both axes logarithmic; returns the figure, and saves it where a path is given."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator

        from ..plotting import _saved

        fig = Figure(figsize=(11, 4.2), layout="constrained")
        axes = fig.subplots(1, 2)
        styles = itertools.product(("-", "--", ":", "-."), (0.0, 0.45))
        for name, marker, (line, grey) in zip(dict.fromkeys(run.schedule for run in self.runs), "osD^vPX*<", itertools.cycle(styles)):
            runs = sorted((run for run in self.runs if run.schedule == name), key=lambda run: run.workers)
            counts = [run.workers for run in runs]
            for ax, shown in zip(axes, ("seconds", "efficiency")):
                ax.loglog(counts, [getattr(run, shown) for run in runs], line, marker=marker, color=str(grey), markersize=5, label=name.replace("_", " "))
        for ax, text in zip(axes, ("seconds an iteration", "efficiency: speed-up / workers")):
            counts = sorted({run.workers for run in self.runs})
            counts = counts if len(counts) < 10 else counts[::2]
            ax.set_xticks(counts, labels=map(str, counts))
            ax.minorticks_off(), ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5))), ax.yaxis.set_major_formatter("{x:g}")
            ax.set_xlabel("workers"), ax.set_title(text), ax.grid(alpha=0.3)
        axes[1].legend(fontsize=8, loc="lower left")
        return _saved(fig, path)
