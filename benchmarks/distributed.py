"""Two processes against one: `python benchmarks/distributed.py [--rounds 9] [--quick] [cases ...]`, a case being WIDTH/BATCH, by default 1024/128 1024/1024 256/256 256/4096.

Eight ReLU layers; a step of PGD on all blocks (full batch), split by layers, by samples, and as `workers=2` chooses; beside it the ceiling (the throughput of two
unrelated replicas), back-propagation with SGD in one process, torch's DDP, and its pipelines GPipe and 1F1B (with 2, 4 and 8 microbatches). One thread a process,
interleaved; speed-ups are over one process of the same kind, medians over the rounds of the ratio within a round.
"""

import argparse
import gc
import os
import platform
import statistics
import tempfile
import time
import warnings

import torch
import torch.distributed as dist
from torch import nn

import paralift as pl
from paralift.bench import LAYERS, lifted
from paralift.bench import layered as network

CASES = ("1024/128", "1024/1024", "256/256", "256/4096")


def crowd(work, processes=2):
    """work() here while as many other processes do the same."""
    children = []
    gc.collect()
    gc.freeze()                                                   # an earlier group's garbage is not for the children
    for _ in range(processes - 1):
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(0)
        children.append(child)
    try:
        return work()
    finally:
        for child in children:
            os.waitpid(child, 0)
        gc.unfreeze()


def interval(times, ends=3):
    """The median time from one to the next, without the first and the last few."""
    times = times[ends:-ends]
    return statistics.median(b - a for a, b in zip(times, times[1:]))


def minibatch_seconds(problem, batch, workers=None):
    """Seconds of ISGM from one update to the next, within a pass."""
    updates = {}

    def schedule(done):                                          # asked for last at done = k / minibatches by the k-th update
        updates[done] = time.perf_counter()
        return 1.0

    pl.ISGM(1, batch, schedule=schedule).solve(problem, progress=False, workers=workers)
    return interval(list(updates.values()))


def grouped(step, iterations):
    """Seconds a step of two processes: step(rank) makes the function that takes it, in a group of gloo."""
    folder = tempfile.TemporaryDirectory()

    def work(rank):
        dist.init_process_group("gloo", store=dist.FileStore(folder.name + "/store", 2), rank=rank, world_size=2)
        run = step(rank)
        for _ in range(iterations):
            run()
        dist.barrier()
        began = time.perf_counter()
        for _ in range(iterations):
            run()
        dist.barrier()
        return (time.perf_counter() - began) / iterations

    gc.collect()
    gc.freeze()                                                   # an earlier group's garbage is not for the child
    child = os.fork()
    if child == 0:
        try:
            work(1)
        finally:
            os._exit(0)
    try:
        return work(0)
    finally:
        os.waitpid(child, 0)
        dist.destroy_process_group()
        gc.unfreeze()
        folder.cleanup()


def backpropagation(width, batch, iterations):
    net, x, y = network(width), torch.randn(batch, width), torch.randn(batch, width)
    step = sgd_step(net, net, x, y)
    for _ in range(iterations):
        step()
    began = time.perf_counter()
    for _ in range(iterations):
        step()
    return (time.perf_counter() - began) / iterations


def sgd_step(net, parameters_of, x, y):
    optimizer = torch.optim.SGD(parameters_of.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        (0.5 * (net(x) - y).square().sum() / len(x)).backward()
        optimizer.step()

    return step


def ddp(width, batch):
    def make(rank):
        net = nn.parallel.DistributedDataParallel(network(width))
        half = batch // 2
        return sgd_step(net, net, torch.randn(half, width), torch.randn(half, width))

    return make


def pipeline(width, batch, kind, microbatches):
    def make(rank):
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

        parts = list(network(width))
        own = nn.Sequential(*(parts[:LAYERS] if rank == 0 else parts[LAYERS:]))
        stage = PipelineStage(own, rank, 2, torch.device("cpu"))
        schedule = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B}[kind](stage, microbatches, loss_fn=lambda z, y: 0.5 * (z - y).square().sum() / batch, scale_grads=False)
        optimizer, x, y = torch.optim.SGD(own.parameters(), 1e-3), torch.randn(batch, width), torch.randn(batch, width)

        def step():
            optimizer.zero_grad()
            schedule.step(x) if rank == 0 else schedule.step(target=y, losses=[])
            optimizer.step()

        return step

    return make


def compare(width, batch, rounds, seconds, microbatches):
    one, _ = lifted(width, batch, 2, None)
    n = max(2, round(seconds / one))
    chosen = []

    def automatic():
        t, result = lifted(width, batch, n, 2)
        chosen.append(" x ".join(result.layout.splitlines()[1].split()[0:3:2]))
        return t

    runs = {"PGD, one process": lambda: lifted(width, batch, n, None)[0], "ceiling: two replicas": lambda: crowd(lambda: lifted(width, batch, n, None)[0]) / 2,
            "PGD, layers": lambda: lifted(width, batch, n, pl.Workers(data=1, layers=2))[0], "PGD, data": lambda: lifted(width, batch, n, pl.Workers(data=2, layers=1))[0],
            "PGD, workers=2": automatic, "back-propagation, one process": lambda: backpropagation(width, batch, n), "DDP": lambda: grouped(ddp(width, batch), n)}
    for kind in ("GPipe", "1F1B"):
        for m in microbatches:
            runs[f"{kind}, {m} microbatches"] = lambda kind=kind, m=m: grouped(pipeline(width, batch, kind, m), n)
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run())
    print(f"\n{LAYERS} layers of {width}, batch {batch}: {rounds} rounds of {n} steps")
    print(f"{'':<32} {'ms a step':>10} {'speed-up':>9} {'(range)':>16} {'of ceiling':>11}")
    ceiling = [a / b for a, b in zip(times["PGD, one process"], times["ceiling: two replicas"])]
    for name, own in times.items():
        base = times["PGD, one process" if name.startswith(("PGD", "ceiling")) else "back-propagation, one process"]
        ratios = [b / t for b, t in zip(base, own)]
        share = statistics.median(r / c for r, c in zip(ratios, ceiling))
        print(f"{name:<32} {1e3 * statistics.median(own):>10.2f} {statistics.median(ratios):>9.2f} {f'({min(ratios):.2f} to {max(ratios):.2f})':>16} {share:>11.2f}")
    print(f"workers=2 chose (data x layers): {', '.join(sorted(set(chosen)))} in {len(chosen)} runs", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.6, help="of one process, a measurement")
    parser.add_argument("--microbatches", type=int, nargs="+", default=[2, 4, 8], help="of GPipe and 1F1B")
    parser.add_argument("cases", nargs="*", default=[])
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore", "the step")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread a process")
    for case in a.cases or (CASES[2:3] if a.quick else CASES):
        width, batch = map(int, case.split("/"))
        compare(width, batch, 2 if a.quick else a.rounds, 0.2 if a.quick else a.seconds, a.microbatches)


if __name__ == "__main__":
    main()
