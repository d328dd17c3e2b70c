"""What `pl.distributed.simulate` predicts against real processes: `python benchmarks/prediction.py [--rounds 3] [--workers 2 4] [cases WIDTH/BATCH ...]`.

Eight ReLU layers: PGD on all blocks split by layers, by samples and by both, ISGM streamed (with its feedback) and flushed over layers. What messages and sums take of time and
processors comes from `calibrate()`, which knows none of these networks. The stages' costs, and what a step, an update and a microbatch's visit take beside them, come from this
network on one worker, while as many processes do the same as there are cores. Times are medians of the intervals between steps. Ends with curves to 4096 workers, for 20 us and
10 GB/s and a core each, in --output.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

import torch
from distributed import crowd, interval, minibatch_seconds, network

import paralift as pl

MICROBATCHES = 8                 # of a flush, as `Flushed()` takes them


def problem(width, batch, minibatches=1):
    torch.manual_seed(1)
    n = batch * minibatches
    return pl.LiftedTraining(network(width), torch.randn(n, width), torch.randn(n, width), loss="squared_error")


class TimedPGD(pl.PGD):
    """PGD that notes when its steps begin."""

    def step(self, problem, state):
        begun.append(time.perf_counter())
        return super().step(problem, state)


begun = []


def pgd(width, batch, workers, steps):
    """Seconds a step."""
    begun.clear()
    TimedPGD(steps, step=1e-3).solve(problem(width, batch), progress=False, workers=workers, record_every=steps)
    return interval(begun)


def isgm(width, batch, workers, steps):
    """Seconds a minibatch."""
    return minibatch_seconds(problem(width, batch, steps), batch, workers)


def costs_alone(width, batch, steps, microbatches):
    """(StageCosts of PGD, {M: those of ISGM in M microbatches, and the seconds of a visit}) on one worker, while as many processes as there are cores do the same."""
    def micro(p, M, update):
        costs = dataclasses.replace(pl.distributed.measured_costs(p, -(-batch // M), 9, gradients=False), update=update)
        alone = isgm(width, batch, pl.Simulated(layers=1, schedule=pl.distributed.Flushed(M)), steps)
        return costs, max(0.0, alone - M * sum(costs.seconds(-(-batch // M))) - sum(costs.update_seconds(batch))) / M

    def measure():
        p = problem(width, batch)
        whole = pl.distributed.measured_costs(p, batch, 9).completed({rows: pgd(width, rows, None, steps) for rows in (batch // 4, batch)})
        update = pl.distributed.measured_costs(p, batch, 9, gradients=False).completed({batch: isgm(width, batch, None, steps)}).update
        return whole, {M: micro(p, M, update) for M in microbatches}

    return crowd(measure, os.cpu_count())


def runs(P):
    """{name: (what runs it, workers, how it is simulated)} on P processes."""
    layers, streamed = lambda **more: pl.Workers(data=1, layers=P, **more), pl.distributed.Streamed()
    found = {"PGD, layers": (pgd, layers(), {"schedules": "layers"}), "PGD, samples": (pgd, pl.Workers(data=P, layers=1), {"schedules": "data_overlapped"})}
    if P == 4:
        found["PGD, 2 x 2"] = (pgd, pl.Workers(data=2, layers=2), {"schedules": "data_overlapped", "layers": 2})
    found["ISGM, streamed"] = (isgm, layers(schedule=streamed), {"schedules": "stream", "microbatches": streamed.parts(1, P, False)})
    found["ISGM, flushed"] = (isgm, layers(schedule=pl.distributed.Flushed(MICROBATCHES)), {"schedules": "flush_1f1b", "microbatches": MICROBATCHES})
    return found


def compare(width, batch, workers, rounds, machine, seconds):
    steps = max(16, round(seconds / pgd(width, batch, None, 8)))
    cases = {(P, name): case for P in workers for name, case in runs(P).items()}
    measured, predicted, errors = {key: [] for key in cases}, {key: [] for key in cases}, []
    counts = {options["microbatches"] for _, _, options in cases.values() if "microbatches" in options}
    for _ in range(rounds):
        own, micro = costs_alone(width, batch, steps, counts)
        for (P, name), (run, mesh, options) in cases.items():
            costs, visit = micro[options["microbatches"]] if run is isgm else (own, 0.0)
            measured[P, name].append(run(width, batch, mesh, steps))
            predicted[P, name].append(pl.distributed.simulate(costs, P, batch, machine=dataclasses.replace(machine, visit=visit), **options).runs[0].seconds)
    for (P, name) in cases:
        a, b = statistics.median(measured[P, name]), statistics.median(predicted[P, name])
        errors.append(b / a - 1)
        spread = f"({1e3 * min(measured[P, name]):.2f} to {1e3 * max(measured[P, name]):.2f})"
        print(f"{width:>5} {batch:>6} {P:>9}  {name:<14} {1e3 * a:>10.2f} {spread:<20} {1e3 * b:>12.2f} {100 * errors[-1]:>8.1f} %", flush=True)
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one process, a measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--output", default="output")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("cases", nargs="*", default=[])
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore", "the step")
    machine = pl.distributed.calibrate()
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread a process\n{machine}")
    print(f"{'width':>5} {'batch':>6} {'processes':>9}  {'schedule':<14} {'ms measured (range)':>31} {'ms predicted':>12} {'error':>10}")
    errors = []
    for case in a.cases or (["256/256"] if a.quick else ["1024/128", "256/256"]):
        errors += compare(*map(int, case.split("/")), a.workers, 1 if a.quick else a.rounds, machine, 0.2 if a.quick else a.seconds)
    print(f"largest error {100 * max(map(abs, errors)):.0f} %, median {100 * statistics.median(map(abs, errors)):.0f} %")
    costs = pl.distributed.measured_costs(problem(1024, 1024), 1024, repeats=3 if a.quick else 7)
    curves = pl.distributed.simulate(costs, workers=[2**e for e in range(13)], batch_size=4096, latency=20e-6, bandwidth=10e9)
    Path(a.output).mkdir(parents=True, exist_ok=True)
    curves.plot(Path(a.output) / "distributed_simulation.png")
    print(f"curves to 4096 workers: {Path(a.output) / 'distributed_simulation.png'}")


if __name__ == "__main__":
    main()
