"""What benchmarks share: MNIST, torch's own loop and ours on the same weights and order of samples, alternating; BART."""

import argparse
import copy
import os
import platform
import statistics
import subprocess
import time

import torch

import paralift as pl

BATCH = 128


def options(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few seconds: fewer samples, passes and seeds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread{', quick' if arguments.quick else ''}")
    return arguments


def mnist(samples=None):
    """(x, y), (xt, yt), standardised; the digits take MNIST's place where it is not at hand."""
    try:
        (x, y), (xt, yt) = pl.data.mnist()
    except FileNotFoundError:
        (x, y), (xt, yt) = pl.data.digits()
    mean, deviation = x.mean(), x.std()
    return ((x - mean) / deviation)[:samples], y[:samples], (xt - mean) / deviation, yt


def accuracy(network, xt, yt):
    network.eval()
    with torch.no_grad():
        return 100 * statistics.mean(float((network(a).argmax(1) == b).double().mean()) for a, b in zip(xt.split(2000), yt.split(2000)))


def seconds(run):
    began = time.perf_counter()
    out = run()
    return time.perf_counter() - began, out


def bart(folder, *command):
    """Run a command of BART in `folder`, on one thread."""
    subprocess.run(["bart", *command], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.DEVNULL)


class Torch:
    """The training loop of a torch user: AdamW (fused; Adam without `weight_decay`, which spares biases and normalisations), cross-entropy, one pass at a time; the step
    falls linearly to 2 % over `falling` epochs where given."""

    def __init__(self, network, x, y, seed, compiled=False, falling=None, weight_decay=0.0, batch=BATCH, step=1e-3):
        self.network, self.x, self.y, self.seed, self.epoch, self.batch = copy.deepcopy(network), x, y, seed, 0, batch
        weights, others = ([p for p in self.network.parameters() if (p.dim() > 1) == wide] for wide in (True, False))
        self.optimizer = torch.optim.AdamW([{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}], lr=step, fused=True)
        self.loss = lambda z, y: torch.nn.functional.cross_entropy(z.flatten(0, -2), y.flatten())
        steps = (falling or 1) * (len(x) // batch)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda k: max(0.02, 1 - k / steps) if falling else 1.0)
        self.call = torch.compile(self.network) if compiled else self.network
        if compiled:                                     # compilation is not timed
            self.loss(self.call(x[:batch]), y[:batch]).backward()

    def run(self):
        self.network.train()
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))
        for k in range(len(self.x) // self.batch):
            i = order[k * self.batch:(k + 1) * self.batch]
            self.optimizer.zero_grad()
            self.loss(self.call(self.x[i]), self.y[i]).backward()
            self.optimizer.step()
            self.schedule.step()
        self.epoch += 1


class Lifted:
    """ISGM on the same weights and order, one pass at a time; the step falls linearly to 2 % over `falling` epochs where given."""

    def __init__(self, network, x, y, seed, problem_arguments=None, falling=None, batch=BATCH, **solver_arguments):
        self.problem, self.result = pl.LiftedTraining(network, x, y, **(problem_arguments or {})), None
        self.solver = pl.ISGM(falling or 10**6, batch, seed=seed, schedule="linear" if falling else "constant", **solver_arguments)

    def run(self):
        def stop(result):
            raise StopIteration

        self.result = self.solver.solve(self.problem, resume=self.result, callback=stop, progress=False)

    @property
    def network(self):
        return self.result.network


def compare(makers, xt, yt, epochs, seeds, measure=accuracy, title="test accuracy (%)"):
    """{name: maker(seed)} -> prints `measure` per epoch (mean over seeds, largest deviation from it at the end) and time per epoch over the first maker's (median and
    range over the pairs)."""
    names = list(makers)
    accuracies, times = {n: [[] for _ in range(epochs)] for n in names}, {n: [] for n in names}
    for seed in range(seeds):
        runs = {n: make(seed) for n, make in makers.items()}
        for epoch in range(epochs):
            for n in names if epoch % 2 else reversed(names):
                times[n].append(seconds(runs[n].run)[0])
                accuracies[n][epoch].append(measure(runs[n].network, xt, yt))
    print(f"{f'{title}, mean of {seeds} seeds':<40}" + "".join(f"{f'epoch {e + 1}':>9}" for e in range(epochs)) + "   spread   time per epoch / first row: median (range)")
    for n in names:
        ratios = [a / b for a, b in zip(times[n], times[names[0]])]
        last = accuracies[n][-1]
        print(f"{n:<40}" + "".join(f"{statistics.mean(a):9.3f}" for a in accuracies[n]) + f"{max(abs(v - statistics.mean(last)) for v in last):9.3f}"
              + f"   {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); {statistics.median(times[n]):.2f} s")
