"""What `pl.distributed.simulate` predicts against real processes: `python benchmarks/prediction.py [--rounds 5] [--workers 2 4] [cases WIDTH/BATCH ...]`.

Eight ReLU layers, PGD on all blocks split by layers and by samples, and ISGM streamed over layers. Stage costs are measured while as many processes compute, since they share this
machine's cores and memory; they are scaled to the step that one of these processes takes alone with the whole problem (updates included). Latency and bandwidth are
those of messages between two processes here. Ends with curves to 4096 workers, for 20 us and 10 GB/s, in --output.
"""

import argparse
import dataclasses
import platform
import statistics
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from distributed import crowd, grouped, lifted, network
from torch import nn

import paralift as pl


def link():
    """(latency in s, bandwidth in bytes/s) of messages there and back between two processes."""
    def seconds(size):
        def make(rank):
            t, got = torch.zeros(size // 4), torch.empty(size // 4)

            def step():
                work = dist.isend(t, 1 - rank)
                dist.recv(got, 1 - rank)
                work.wait()

            return step

        return statistics.median(grouped(make, 50) for _ in range(5))

    small, large = seconds(4096), seconds(2**22)
    return small, 2**22 / (large - small)


def problem(width, batch, minibatches=1):
    torch.manual_seed(1)
    n = batch * minibatches
    return pl.LiftedTraining(network(width), torch.randn(n, width), torch.randn(n, width), loss="squared_error")


def streamed(width, batch, workers, minibatches):
    """Seconds a minibatch of ISGM over layer workers, of the second pass."""
    times = []
    pl.ISGM(2, batch).solve(problem(width, batch, minibatches), progress=False, workers=workers, callback=lambda r: times.append(time.perf_counter()))
    return (times[1] - times[0]) / minibatches


def compare(width, batch, workers, rounds, latency, bandwidth):
    n = max(2, round(0.5 / lifted(width, batch, 2, None)[0]))
    real = {"layers": lambda: lifted(width, batch, n, pl.Workers(data=1, layers=workers))[0],
            "data_overlapped": lambda: lifted(width, batch, n, pl.Workers(data=workers, layers=1))[0],
            "stream": lambda: streamed(width, batch, pl.Workers(data=1, layers=workers, schedule=pl.distributed.Streamed(workers, feedback=0)), n)}
    measured, predicted = {name: [] for name in real}, {name: [] for name in real}
    for _ in range(rounds):
        p = problem(width, batch)
        costs = crowd(lambda: pl.distributed.measured_costs(p, batch, repeats=5), workers)
        alone = {"jacobi": crowd(lambda: lifted(width, batch, n, None)[0], workers), "stream": crowd(lambda: streamed(width, batch, None, n), workers)}
        for name, run in real.items():
            share = alone["stream" if name == "stream" else "jacobi"] / sum(costs.seconds(batch))
            scaled = lambda pairs: tuple((share * a, share * b) for a, b in pairs)
            own = dataclasses.replace(costs, forward=scaled(costs.forward), backward=scaled(costs.backward))
            simulation = pl.distributed.simulate(own, workers=workers, batch_size=batch, schedules=name, latency=latency, bandwidth=bandwidth, microbatches=workers)
            predicted[name].append(simulation.runs[0].seconds)
            measured[name].append(run())
    for name in real:
        a, b = statistics.median(measured[name]), statistics.median(predicted[name])
        spread = f"({1e3 * min(measured[name]):.2f} to {1e3 * max(measured[name]):.2f})"
        print(f"{width:>5} {batch:>6} {workers:>8}  {name:<16} {1e3 * a:>10.2f} {spread:<20} {1e3 * b:>12.2f} {100 * (b / a - 1):>8.1f} %", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--output", default="output")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("cases", nargs="*", default=[])
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore", "the step")
    latency, bandwidth = link()
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread a process; "
          f"messages {1e6 * latency:.0f} us and {bandwidth / 1e9:.2f} GB/s")
    print(f"{'width':>5} {'batch':>6} {'workers':>8}  {'schedule':<16} {'ms measured (range)':>30} {'ms predicted':>16} {'error':>8}")
    for case in a.cases or (["256/256"] if a.quick else ["1024/128", "1024/1024", "256/4096"]):
        for workers in a.workers:
            compare(*map(int, case.split("/")), workers, 1 if a.quick else a.rounds, latency, bandwidth)
    torch.manual_seed(0)
    costs = pl.distributed.measured_costs(pl.LiftedTraining(nn.Sequential(*network(1024)), torch.randn(1024, 1024), torch.randn(1024, 1024), loss="squared_error"), 1024, repeats=7)
    curves = pl.distributed.simulate(costs, workers=[2**e for e in range(13)], batch_size=4096, latency=20e-6, bandwidth=10e9)
    Path(a.output).mkdir(parents=True, exist_ok=True)
    curves.plot(Path(a.output) / "distributed_simulation.png")
    print(f"curves to 4096 workers: {Path(a.output) / 'distributed_simulation.png'}")


if __name__ == "__main__":
    main()
