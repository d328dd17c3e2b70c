"""Streams over layer workers against the serial method: `python benchmarks/schedules.py [--seeds 3] [--passes 3] [--quick] [mlp10 mlp16 resmlp transformer]`.

Accuracy (or validation loss) after each pass for P = 1, 2, 4, 8 workers in a row, all in one process (`pl.Simulated`, which gives the same bits as real workers), and, from the
stages' measured costs, the seconds that P workers take for a minibatch, by discrete events (latency 20 us, 10 GB/s): how much sooner the accuracy of the serial run is reached.
"""

import argparse
import dataclasses
import json
import platform
import statistics
from pathlib import Path

import torch
from architectures import text
from torch import nn

import paralift as pl

WORKERS = (1, 2, 4, 8)


class Residual(nn.Module):
    """u <- u + W2 relu(W1 u + b1) + b2, eight times."""

    def __init__(self, inputs, width, blocks=8):
        super().__init__()
        self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, 10)
        self.inner = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(blocks))
        for block in self.inner:
            nn.init.normal_(block[2].weight, 0, (1 / width / blocks) ** 0.5)

    def forward(self, x):
        u = torch.relu(self.first(x))
        for block in self.inner:
            u = u + block(u)
        return self.last(u)


def plain(depth, width):
    def make(inputs):
        widths = [inputs] + [width] * (depth - 1) + [10]
        network = nn.Sequential(*[m for a, b in zip(widths, widths[1:]) for m in (nn.Linear(a, b), nn.ReLU())][:-1])
        for layer in network[::2]:
            nn.init.normal_(layer.weight, 0, (2 / layer.in_features) ** 0.5)
            nn.init.zeros_(layer.bias)
        return network

    return make


def problem(kind, width, samples, seed):
    torch.manual_seed(seed)
    if kind == "transformer":
        x, y, xt, yt, alphabet = text(min(samples, 2000), context=64)
        return pl.LiftedTraining(pl.networks.CausalTransformer(alphabet, width=64, blocks=4, context=64), x, y, validation=(xt, yt))
    try:
        (x, y), test = pl.data.mnist()
    except FileNotFoundError:
        (x, y), test = pl.data.digits()
    make = {"mlp10": plain(10, width), "mlp16": plain(16, width), "resmlp": lambda inputs: Residual(inputs, width)}[kind]
    return pl.LiftedTraining(make(x.shape[1]), x[:samples], y[:samples], validation=test)


def seconds_a_minibatch(p, batch):
    """{P: predicted seconds of a minibatch} of the serial method and of streams; every stage but the last is charged with the feedback's quarter of a product."""
    costs = pl.distributed.measured_costs(p, batch, repeats=7)
    fed = dataclasses.replace(costs, backward=tuple((b[0] + f[0], b[1] + f[1] / 4) for b, f in zip(costs.backward[:-1], costs.forward)) + costs.backward[-1:])
    simulated = lambda P: pl.distributed.simulate(fed, workers=P, batch_size=batch, schedules="stream", microbatches=pl.distributed.Streamed().parts(1, P, False)).runs[0]
    return {1: sum(costs.seconds(batch)), **{P: simulated(P).seconds for P in WORKERS[1:]}}


def train(kind, a, batch, column):
    """{P: [accuracies after the passes, for each seed]}."""
    rows = {P: [] for P in a.workers}
    for seed in range(a.seeds):
        for P in a.workers:
            workers = None if P == 1 else pl.Simulated(layers=P)
            result = pl.ISGM(a.passes, batch, schedule=a.step, seed=seed).solve(problem(kind, a.width, a.samples, seed), progress=False, workers=workers)
            rows[P].append(result.history[column])
    return rows


def race(kind, a):
    """One process against two real ones, alternating over the seeds: the accuracy after each pass and the seconds since the start, validation included."""
    choices = {"one process": None, "two, layers": pl.Workers(data=1, layers=2), "two, M = 1": pl.Workers(data=1, layers=2, schedule=pl.distributed.Streamed(1)),
               "two, samples": pl.Workers(data=2, layers=1)}
    runs = {name: [] for name in choices}
    for seed in range(a.seeds):
        for name, workers in choices.items():
            history = pl.ISGM(a.passes, 128, schedule=a.step, seed=seed).solve(problem(kind, a.width, a.samples, seed), progress=False, workers=workers).history
            runs[name].append((history["accuracy"], history["seconds"]))
    print(f"\n{kind}, width {a.width}: test accuracy (%) and seconds after each pass, means of {a.seeds} seeds; time over that of one process: median (range)")
    for name, own in runs.items():
        accuracies, times = ([statistics.mean(v) for v in zip(*(r[k] for r in own))] for k in (0, 1))
        ratios = [r[1][-1] / s[1][-1] for r, s in zip(own, runs["one process"])]
        shown = f"{' / '.join(f'{100 * v:.2f}' for v in accuracies):<24} {' / '.join(f'{v:.1f}' for v in times):<24}"
        print(f"{name:<14} {shown} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def compare(kind, a):
    batch, column, better = (32, "validation_loss", -1) if kind == "transformer" else (128, "accuracy", 1)
    width = 64 if kind == "transformer" else a.width
    file = None if a.kept is None else Path(a.kept) / f"{kind}_{width}_{a.step}.json"
    if file is not None and file.exists():
        rows = {int(P): r for P, r in json.loads(file.read_text()).items()}
    else:
        rows = train(kind, a, batch, column)
        if file is not None:
            file.write_text(json.dumps(rows))
    times = seconds_a_minibatch(problem(kind, a.costs_width or a.width, a.samples, 0), batch)
    scale, shown = (1 / 64, "validation loss (nats a character)") if better < 0 else (100, "test accuracy (%)")
    mean = {P: [scale * statistics.mean(v) for v in zip(*r)] for P, r in rows.items()}
    passes, target = len(mean[1]), mean[1][-1]
    print(f"\n{kind}, width {width}: {shown} after each pass, {len(rows[1])} seeds, step {a.step}; costs measured at width {a.costs_width or width}, batch {batch}")
    print(f"{'workers':>7}  {'after each pass':<26} {'range at the end':<18} {'ms a minibatch':>14} {'speed-up':>8}  passes to the serial end, and time of the serial run's")
    for P, runs in rows.items():
        ends = [scale * r[-1] for r in runs]
        reached = next((k + 1 for k, v in enumerate(mean[P]) if better * v >= better * target), None)
        share = "not reached" if reached is None else f"{reached}, 1/{passes * times[1] / (reached * times[P]):.2f}"
        after = " / ".join(f"{v:.{2 if scale > 1 else 3}f}" for v in mean[P])
        print(f"{P:>7}  {after:<26} {f'{min(ends):.3f} to {max(ends):.3f}':<18} {1e3 * times[P]:>14.3f} {times[1] / times[P]:>8.2f}  {share}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--samples", type=int, default=60000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--race", action="store_true", help="one process against two real ones, in seconds")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--costs-width", type=int, default=None, help="measure the stages' costs at another width")
    parser.add_argument("--kept", default=None, help="folder where accuracies are kept and read again, so that costs can be measured apart")
    parser.add_argument("--step", choices=["linear", "constant"], default="linear")
    parser.add_argument("networks", nargs="*", default=[])
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.quick:
        a.seeds, a.passes, a.samples, a.width = 1, 2, 2000, 64
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread")
    for kind in a.networks or ["mlp10", "mlp16", "resmlp", "transformer"]:
        race(kind, a) if a.race else compare(kind, a)


if __name__ == "__main__":
    main()
