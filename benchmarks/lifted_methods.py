"""Lifted training by every method that applies: 784-256-256-10 ReLU on MNIST, same start, same time for each, one thread.

`python benchmarks/lifted_methods.py [--quick] [--seconds 60] [--samples 10000] [name ...]` prints a Markdown table; names select rows. MNIST comes through
PARALIFT_DATA; the digits take its place where it is not at hand. Accuracy and training loss are the forward network's, computed after the run. The objective and the
residual are the method's own: E(theta, x) for those on the full lifted problem, the mean loss for the others. A method that does not apply is listed with its sentence.
"""

import argparse
import platform
import time

import torch
from peers import BATCH, accuracy, mnist
from torch import nn

import paralift as pl

LIMIT = 10**6
# name: the solver, made afresh for a time limit in seconds; steps are numbers where "auto" is a bound that deep networks make tiny
METHODS = {
    "PGD": lambda s: pl.PGD(LIMIT, max_seconds=s),
    "PGD, Barzilai-Borwein": lambda s: pl.PGD(LIMIT, step="barzilai_borwein", max_seconds=s),
    "PGD, heavy ball": lambda s: pl.PGD(LIMIT, acceleration="heavy_ball", max_seconds=s),
    "FISTA, gradient restart": lambda s: pl.FISTA(LIMIT, max_seconds=s),
    "FISTA, function restart": lambda s: pl.FISTA(LIMIT, restart="function", max_seconds=s),
    "BCD": lambda s: pl.BCD(LIMIT, max_seconds=s),
    "BCD, groups of 500, tau 10, 3 steps on x": lambda s: pl.BCD(LIMIT, batch_size=500, tau=10.0, inner_steps=3, max_seconds=s),
    "ISGM, 1 sweep, plain, 0.1": lambda s: pl.ISGM(LIMIT, BATCH, 0.1, metric="plain", max_seconds=s),
    "ISGM, 1 sweep, momentum, 0.02": lambda s: pl.ISGM(LIMIT, BATCH, 0.02, metric="momentum", max_seconds=s),
    "ISGM, 1 sweep, adam, 0.001": lambda s: pl.ISGM(LIMIT, BATCH, metric="adam", max_seconds=s),
    "ISGM, 1 sweep, adagrad, 0.01": lambda s: pl.ISGM(LIMIT, BATCH, metric="adagrad", max_seconds=s),
    "ISGM, 3 sweeps, plain, 1": lambda s: pl.ISGM(LIMIT, BATCH, 1.0, sweeps=3, metric="plain", max_seconds=s),
    "ISGM, 3 sweeps, plain, 100": lambda s: pl.ISGM(LIMIT, BATCH, 100.0, sweeps=3, metric="plain", max_seconds=s),
    "ISGM, 3 sweeps, momentum, 0.1": lambda s: pl.ISGM(LIMIT, BATCH, 0.1, sweeps=3, metric="momentum", max_seconds=s),
    "ISGM, 3 sweeps, adam, 0.001": lambda s: pl.ISGM(LIMIT, BATCH, sweeps=3, metric="adam", max_seconds=s),
    "ISGM, inner PGD(5), plain, 1": lambda s: pl.ISGM(LIMIT, BATCH, 1.0, inner=pl.PGD(5), metric="plain", max_seconds=s),
    "SGD, plain, 0.1": lambda s: pl.SGD(LIMIT, BATCH, 0.1, max_seconds=s),
    "SGD, adam, 0.001": lambda s: pl.SGD(LIMIT, BATCH, metric="adam", max_seconds=s),
    "SAGA, 0.1": lambda s: pl.SAGA(LIMIT, BATCH, 0.1, max_seconds=s),
    "SVRG, 0.1": lambda s: pl.SVRG(LIMIT, BATCH, 0.1, max_seconds=s),
    "Katyusha, 0.1, mu = 0.01 assumed": lambda s: pl.Katyusha(LIMIT, BATCH, 0.1, strong_convexity=0.01, max_seconds=s),
    "PIAG, 20 shards, adaptive": lambda s: pl.PIAG(LIMIT, shards=20, max_seconds=s),
    "PIAG, 20 shards, bold": lambda s: pl.PIAG(LIMIT, shards=20, step="bold", max_seconds=s),
    "PIAG, 20 shards, 0.05": lambda s: pl.PIAG(LIMIT, shards=20, step=0.05, max_seconds=s),
    "PIAG, 20 shards, 0.005, momentum 0.9": lambda s: pl.PIAG(LIMIT, shards=20, step=0.005, momentum=0.9, max_seconds=s),
    "LBFGS": lambda s: pl.LBFGS(LIMIT, max_seconds=s),
}


def run(make, x, y, xt, yt, seconds):
    """The row of one method, or the sentence with which it refuses."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    problem = pl.LiftedTraining(network, x, y)
    began = time.perf_counter()
    try:
        result = make(seconds).solve(problem, record_every=5, progress=False)
    except (TypeError, ValueError) as refusal:
        return str(refusal)
    spent = time.perf_counter() - began
    loss = float(problem.mean_loss(result.x))
    shown = lambda v: "-" if v is None else f"{v:.4g}"
    return [f"{accuracy(result.network, xt, yt):.2f}", shown(loss), shown(result.objective), shown(result.residual), f"{result.data_passes:g}", f"{spent:.1f}",
            "" if result.status is pl.Status.MAX_SECONDS else result.status.name]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1.2 s a method, 2000 samples")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each method")
    parser.add_argument("--samples", type=int, default=10000, help="training samples")
    parser.add_argument("names", nargs="*", help="rows whose name holds one of these; all by default")
    arguments = parser.parse_args()
    seconds, samples = (1.2, 2000) if arguments.quick else (arguments.seconds, arguments.samples)
    torch.set_num_threads(1)
    x, y, xt, yt = mnist(samples)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread; {len(x)} samples, batch {BATCH}, {seconds:g} s a method\n")
    print("| method | test accuracy (%) | training loss | own objective | own residual | passes | seconds | ended |\n|---|---|---|---|---|---|---|---|")
    refused = []
    for name, make in METHODS.items():
        if not arguments.names or any(part in name for part in arguments.names):
            row = run(make, x, y, xt, yt, seconds)
            if isinstance(row, str):
                refused.append(f"{name}: {row}")
            else:
                print(f"| {name} | {' | '.join(row)} |", flush=True)
    print("\n".join(["", *refused]))


if __name__ == "__main__":
    main()
