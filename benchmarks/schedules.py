"""Streams over layer workers against the serial method: `python benchmarks/schedules.py [--seeds 3] [--passes 3] [--quick] [mlp10 mlp16 resmlp transformer]`.

Accuracy (or validation loss) after each pass for P = 1, 2, 4, 8 workers in a row, all in one process (`pl.Simulated`, which gives the same bits as real workers), and the seconds
that P workers take for a minibatch, by discrete events (latency 20 us, 10 GB/s, a core each): how much sooner the accuracy of the serial run is reached. Stages are timed at the
microbatch's rows, a microbatch's visit (`calibrate()`) and the update are charged. `--speeds`: the speeds alone, of plain networks of many widths, depths and batches. `--race`:
one process against two real ones. `--batch` changes the minibatch, `mlp8` and so on are plain networks of other depths.
"""

import argparse
import dataclasses
import json
import platform
import statistics
from pathlib import Path

import torch
from architectures import text
from distributed import minibatch_seconds
from torch import nn

import paralift as pl

WORKERS = (1, 2, 4, 8)
LINK, FREE = pl.distributed.Link(20e-6, 10e9), pl.distributed.Link(0.0, float("inf"))


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
    make = plain(int(kind[3:]), width) if kind[:3] == "mlp" else lambda inputs: Residual(inputs, width)
    return pl.LiftedTraining(make(x.shape[1]), x[:samples], y[:samples], validation=test)


def predicted_seconds(p, batch, machine, repeats=7):
    """{P: seconds of a minibatch}, of the serial method and of streams over P workers."""
    whole = pl.distributed.measured_costs(p, batch, repeats, gradients=False)
    some = p if p.samples <= 16 * batch else pl.LiftedTraining(p.network, p.inputs[:16 * batch], p.targets[:16 * batch])
    whole = whole.completed({batch: minibatch_seconds(some, batch)})
    found = {1: whole.serial_seconds(batch)}
    for P in WORKERS[1:]:
        M = pl.distributed.Streamed().parts(1, P, False)
        costs = dataclasses.replace(pl.distributed.measured_costs(p, -(-batch // M), repeats, gradients=False), update=whole.update)
        found[P] = pl.distributed.simulate(costs, P, batch, schedules="stream", microbatches=M, machine=machine).runs[0].seconds
    return found


def speeds(a, machine):
    """Predicted speed-ups of plain networks; the stages between the first and the last cost what those of a network of five layers do on the mean."""
    print(f"{'width':>5} {'batch':>5} {'layers':>6}   speed-up for {', '.join(map(str, WORKERS[1:]))} workers; at most (parts of whole stages, nothing else lost)", flush=True)
    for width in a.widths:
        for batch in a.batches:
            torch.manual_seed(0)
            p = pl.LiftedTraining(plain(5, width)(784), torch.randn(12 * batch, 784), torch.randint(10, (12 * batch,)))
            whole = pl.distributed.measured_costs(p, batch, 15, gradients=False)
            whole = whole.completed({batch: minibatch_seconds(p, batch)})
            micro = {P: dataclasses.replace(pl.distributed.measured_costs(p, batch // P, 15, gradients=False), update=whole.update) for P in WORKERS[1:]}
            for depth in (8, 10, 16, 17, 24):
                serial = deepened(whole, depth)
                run = lambda P, costs: pl.distributed.simulate(deepened(costs, depth), P, batch, schedules="stream", machine=machine).runs[0].seconds
                gain = {P: serial.serial_seconds(batch) / run(P, costs) for P, costs in micro.items()}
                most = {P: P * next(m for m in pl.distributed.layouts(serial, P, batch, "stream", FREE, microbatches=1) if m.data == 1).efficiency for P in micro}
                shown = lambda table: " ".join(f"{v:>5.2f}" for v in table.values())
                print(f"{width:>5} {batch:>5} {depth:>6}   {shown(gain)}   {shown(most)}", flush=True)


def deepened(costs, depth):
    """Costs of a deeper chain: the first and the last stage, and so many like those between them."""
    mean = lambda values: tuple(statistics.mean(v) for v in zip(*values)) if isinstance(values[0], tuple) else statistics.mean(values)
    longer = lambda values: (values[0], *[mean(values[1:-1])] * (depth - 2), values[-1])
    names = ("forward", "backward", "parameter_bytes", "output_bytes", "update")
    return pl.distributed.StageCosts(**{name: longer(getattr(costs, name)) for name in names})


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
            history = pl.ISGM(a.passes, a.batch, schedule=a.step, seed=seed).solve(problem(kind, a.width, a.samples, seed), progress=False, workers=workers).history
            runs[name].append((history["accuracy"], history["seconds"]))
    print(f"\n{kind}, width {a.width}: test accuracy (%) and seconds after each pass, means of {a.seeds} seeds; time over that of one process: median (range)")
    for name, own in runs.items():
        accuracies, times = ([statistics.mean(v) for v in zip(*(r[k] for r in own))] for k in (0, 1))
        ratios = [r[1][-1] / s[1][-1] for r, s in zip(own, runs["one process"])]
        shown = f"{' / '.join(f'{100 * v:.2f}' for v in accuracies):<24} {' / '.join(f'{v:.1f}' for v in times):<24}"
        print(f"{name:<14} {shown} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def compare(kind, a, machine):
    batch, column, better = (32, "validation_loss", -1) if kind == "transformer" else (a.batch, "accuracy", 1)
    width = 64 if kind == "transformer" else a.width
    file = None if a.kept is None else Path(a.kept) / f"{kind}_{width}_{batch}_{a.step}.json"
    if file is not None and file.exists():
        rows = {int(P): r for P, r in json.loads(file.read_text()).items()}
    else:
        rows = train(kind, a, batch, column)
        if file is not None:
            file.write_text(json.dumps(rows))
    times = predicted_seconds(problem(kind, a.costs_width or a.width, a.samples, 0), batch, machine)
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
    parser.add_argument("--batch", type=int, default=128, help="of a minibatch; the transformer has 32")
    parser.add_argument("--speeds", action="store_true", help="predicted speeds alone, of plain networks")
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024, 2048], help="of --speeds")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 256, 512], help="of --speeds")
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
    measured = pl.distributed.calibrate()
    machine = pl.distributed.Machine(LINK, LINK, visit=measured.visit)
    print(f"a microbatch's visit {1e6 * machine.visit:.0f} us")
    if a.speeds:
        return speeds(a, machine)
    for kind in a.networks or ["mlp10", "mlp16", "resmlp", "transformer"]:
        race(kind, a) if a.race else compare(kind, a, machine)


if __name__ == "__main__":
    main()
