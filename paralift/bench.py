"""What `paralift bench` measures, and what the benchmarks of the sources share with it: two pieces of work by turns on one thread, and their ratios."""

import copy
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

from .distributed import Workers
from .networks import MLP
from .operators import MRI, L1Norm, variable_density_mask
from .problems import LiftedTraining
from .solvers import ISGM, PGD, Result

__all__ = ["alternating", "bench", "layered", "lifted"]

LAYERS = 8


def alternating(calls: dict[str, Callable[[], object]], repeats: int, warm: int = 2) -> dict[str, tuple[float, float]]:
    """{name: (median, minimum) in seconds} of calls that take turns, after `warm` rounds that are not counted."""
    times = {name: [] for name in calls}
    for k in range(repeats + warm):
        for name in calls if k % 2 else reversed(calls):
            began = time.perf_counter()
            calls[name]()
            if k >= warm:
                times[name].append(time.perf_counter() - began)
    return {name: (statistics.median(t), min(t)) for name, t in times.items()}


def layered(width: int) -> nn.Sequential:
    """Eight layers of this width with ReLU between them, the same at every call."""
    torch.manual_seed(0)
    return MLP(*[width] * (LAYERS + 1))


def lifted(width: int, batch: int, iterations: int, workers: int | Workers | None) -> tuple[float, Result]:
    """Seconds an iteration of PGD on all blocks of `layered(width)`, after as many that are not counted, and without the row of the history between the two."""
    torch.manual_seed(1)
    problem = LiftedTraining(layered(width), torch.randn(batch, width), torch.randn(batch, width), loss="squared_error")
    began: list[float] = []
    result = PGD(2 * iterations, step=1e-3).solve(problem, progress=False, workers=workers, record_every=iterations, callback=lambda r: began.append(r.seconds))
    return (result.history["seconds"][1] - began[0]) / iterations, result


def _training(samples):
    """A pass over random samples by fused Adam and by ISGM."""
    torch.manual_seed(0)
    network, x, y = MLP(784, 256, 256, 10), torch.randn(samples, 784), torch.randint(10, (samples,))
    problem, own = LiftedTraining(network, x, y), copy.deepcopy(network)
    optimizer = torch.optim.Adam(own.parameters(), 1e-3, fused=True)

    def plain():
        for rows in torch.randperm(samples).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(own(x[rows]), y[rows]).backward()
            optimizer.step()

    return plain, lambda: ISGM(1, batch_size=128).solve(problem, progress=False)


def _prox(n):
    x, f = torch.randn(n), L1Norm()
    return lambda: x - x.clamp(-0.3, 0.3), lambda: f.prox(x, 0.3)


def _scan(n, coils=8):
    maps, x = torch.randn(coils, n, n, dtype=torch.complex64), torch.randn(n, n, dtype=torch.complex64)
    mask = variable_density_mask((n, n), 4).float()
    conj, A = maps.conj().resolve_conj(), MRI(mask, maps)
    return lambda: (conj * torch.fft.ifft2(mask * (torch.fft.fft2(maps * x, norm="ortho") * mask), norm="ortho")).sum(0), lambda: A.adjoint(A(x))


def bench(quick: bool = False) -> list[tuple[str, float, float, float]]:
    """Print, and return, a row for each piece of work: (name, seconds of the peer, ours, ours / peer), medians of runs that take turns; the last row is two workers over one."""
    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread a process{', quick' if quick else ''}")
    print(f"{'':<76}{'peer':>12}{'PARALIFT':>12}{'ratio':>8}{'of minima':>11}")

    def show(name, peer, own):
        rows.append((name, peer[0], own[0], own[0] / peer[0]))
        print(f"{name:<76}{1e3 * peer[0]:>9.2f} ms{1e3 * own[0]:>9.2f} ms{own[0] / peer[0]:>8.2f}{own[1] / peer[1]:>11.2f}", flush=True)

    try:
        samples, n = (1280, 128) if quick else (12800, 256)
        for name, (peer, own), repeats in ((f"training, MLP 784-256-256-10, a pass over {samples} samples: fused Adam, ISGM", _training(samples), 5 if quick else 15),
                                           ("prox of the l1 norm, 10^6 numbers: bare torch, L1Norm", _prox(10**6), 20 if quick else 200),
                                           (f"MRI, 8 coils of {n} x {n}, there and back: bare torch.fft, MRI", _scan(n), 10 if quick else 60)):
            times = alternating({"peer": peer, "own": own}, repeats)
            show(name, times["peer"], times["own"])
        if (os.cpu_count() or 1) < 2 or not hasattr(os, "fork"):
            print("two workers over one: left out, they need two cores and processes that fork")
        else:
            width, iterations, rounds = (256, 4, 2) if quick else (1024, 8, 5)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the step")                 # its size is not the point here
                pairs = [[lifted(width, 128, iterations, workers)[0] for workers in (None, Workers(layers=2))] for _ in range(rounds)]
            one, two = ((statistics.median(t), min(t)) for t in zip(*pairs))
            show(f"PGD on {LAYERS} layers of {width}, batch 128, an iteration: one worker, two", one, two)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    print("A ratio below 1: PARALIFT, or two workers, take less time.")
    return rows
