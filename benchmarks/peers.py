"""What the training benchmarks share: MNIST, torch's own loop and ours on the same weights and order of samples, alternating."""

import argparse
import copy
import platform
import statistics
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


class Torch:
    """The training loop of a torch user: Adam (fused), cross-entropy, one pass at a time."""

    def __init__(self, network, x, y, seed, compiled=False):
        self.network, self.x, self.y, self.seed, self.epoch = copy.deepcopy(network), x, y, seed, 0
        self.optimizer, self.loss = torch.optim.Adam(self.network.parameters(), lr=1e-3, fused=True), torch.nn.CrossEntropyLoss()
        self.call = torch.compile(self.network) if compiled else self.network
        if compiled:                                     # compilation is not timed
            self.loss(self.call(x[:BATCH]), y[:BATCH]).backward()

    def run(self):
        self.network.train()
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))
        for k in range(len(self.x) // BATCH):
            i = order[k * BATCH:(k + 1) * BATCH]
            self.optimizer.zero_grad()
            self.loss(self.call(self.x[i]), self.y[i]).backward()
            self.optimizer.step()
        self.epoch += 1


class Lifted:
    """ISGM on the same weights and order, one pass at a time."""

    def __init__(self, network, x, y, seed, problem_arguments=None, **solver_arguments):
        self.problem, self.result, self.epoch = pl.LiftedTraining(network, x, y, **(problem_arguments or {})), None, 0
        self.arguments = {"batch_size": BATCH, "seed": seed, **solver_arguments}

    def run(self):
        self.epoch += 1
        self.result = pl.ISGM(self.epoch, **self.arguments).solve(self.problem, resume=self.result)

    @property
    def network(self):
        return self.result.network


def compare(makers, x, y, xt, yt, epochs, seeds):
    """{name: maker(seed)} -> prints accuracy per epoch (mean over seeds) and time per epoch over the first maker's (median and range over the pairs)."""
    names = list(makers)
    accuracies, times = {n: [[] for _ in range(epochs)] for n in names}, {n: [] for n in names}
    for seed in range(seeds):
        runs = {n: make(seed) for n, make in makers.items()}
        for epoch in range(epochs):
            for n in names if epoch % 2 else reversed(names):
                times[n].append(seconds(runs[n].run)[0])
                accuracies[n][epoch].append(accuracy(runs[n].network, xt, yt))
    print(f"{f'test accuracy (%), mean of {seeds} seeds':<36}" + "".join(f"{f'epoch {e + 1}':>9}" for e in range(epochs)) + "   time per epoch / first row: median (range)")
    for n in names:
        ratios = [a / b for a, b in zip(times[n], times[names[0]])]
        print(f"{n:<36}" + "".join(f"{statistics.mean(a):9.2f}" for a in accuracies[n])
              + f"   {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); {statistics.median(times[n]):.2f} s")
