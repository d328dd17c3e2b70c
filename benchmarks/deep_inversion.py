"""Deep inversion: images from the codes of an encoder, by the lifted energy and by Adam on the image with back-propagation, at equal CPU time; batches; samples over workers.

`python benchmarks/deep_inversion.py [--quick] [--part deep|batches]`, on one thread. Both methods minimise a data term + alpha TV(u) over images in [0, 1] (TV with
Huber's function, the same kernel in both); the lifted problem's construction is in its time. Constants were chosen on images 50 to 69 of the test set, the tables are of images
0 to 49; Adam's rows are its best settings found there for short and long times.
"""

import argparse
import math
import time

import torch
from torch import nn

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a few seconds: the digits where MNIST is not at hand, a short training, two times")
parser.add_argument("--part", choices=("deep", "batches"), help="one part only")
arguments = parser.parse_args()
quick = arguments.quick
torch.set_num_threads(1)
print(f"torch {torch.__version__}, one thread{', quick' if quick else ''}")


def encoder():
    """(encoder, images): three layers to 300 codes, trained in an autoencoder of six by lifting."""
    torch.manual_seed(0)
    try:
        (train, _), (test, _) = pl.data.mnist(flatten=False)
    except FileNotFoundError:
        (train, _), (test, _) = (tuple((x.view(-1, 8, 8), y)) for x, y in pl.data.digits())
    n, q = train.shape[1], train.shape[1] // 4
    net = nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * q * q, 300), nn.ReLU(),
        nn.Linear(300, 16 * q * q), nn.ReLU(), nn.Unflatten(1, (16, q, q)), nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1))
    x = train[:1000 if quick else 5000].view(-1, 1, n, n)
    trained = pl.ISGM(2 if quick else 8, batch_size=64, step=2e-3, schedule="linear", seed=0).solve(pl.LiftedTraining(net, x, x, loss="squared_error", rho=10.0), progress=False)
    return trained.network[:7].requires_grad_(False), test.view(-1, 1, n, n)


class Clock:
    """CPU seconds of a run, without those of the measurements: at each of `times` the relative error of the images and the residual |N(u) - y| / |y|."""

    def __init__(self, net, y, images, times):
        self.net, self.y, self.images, self.times, self.rows, self.steps = net, y, images, list(times), [], 0
        self.before, self.began = 0.0, time.process_time()

    def share(self):
        return (self.before + time.process_time() - self.began) / self.times[-1]

    def going(self, u):
        now = self.before + time.process_time() - self.began
        while self.times and now >= self.times[0]:
            with torch.no_grad():
                errors = (u - self.images).flatten(1).norm(dim=1) / self.images.flatten(1).norm(dim=1)
                total = float((u - self.images).norm() / self.images.norm())
                self.rows.append((self.times.pop(0), total, float((self.net(u) - self.y).norm() / self.y.norm()), errors, self.steps))
        self.steps, self.before, self.began = self.steps + 1, now, time.process_time()
        return bool(self.times)


DELTA = 0.02                                             # Huber's, in units of the image's range


def adam(net, y, images, times, rate, alpha):
    """Adam on |N(u) - y|^2 / 2 + alpha TV(u), u cut to [0, 1] after every step; alpha = (first, last) falls geometrically, in a run for each time."""
    if isinstance(alpha, tuple) and len(times) > 1:
        return [adam(net, y, images, [t], rate, alpha)[0] for t in times]
    clock, R = Clock(net, y, images, times), pl.HuberTotalVariation(DELTA, images.shape[-2:])
    u = torch.zeros_like(images, requires_grad=True)
    optimiser = torch.optim.Adam([u], lr=rate, betas=(0.9, 0.99))
    while clock.going(u.detach()):
        now = alpha[0] ** (1 - clock.share()) * alpha[1] ** clock.share() if isinstance(alpha, tuple) else alpha
        optimiser.zero_grad()
        (0.5 * (net(u) - y).square().sum()).backward()
        with torch.no_grad():
            if now:
                u.grad.add_(R.gradient(u), alpha=now)
            optimiser.step()
            u.clamp_(0, 1)
    return clock.rows


def lifted(net, y, images, times, rho=(12.0, 3.0, 1.0), weight=1.5e-4, step=0.2):
    """ImplicitGradient on the lifted energy, a run for each time; K is what the clock leaves at the pace so far."""
    if len(times) > 1:
        return [lifted(net, y, images, [t], rho, weight, step)[0] for t in times]
    clock = Clock(net, y, images, times)
    problem = pl.LiftedInversion(net, y, pl.HuberTotalVariation(DELTA), weight=weight, rho=dict(enumerate(rho, 1)), fidelity="squared_error",
                                 constraint=pl.IndicatorBox(0, 1), shape=tuple(images.shape[1:]))
    solver = pl.ImplicitGradient(10**6, step=step)
    state = solver.start(problem)
    while clock.going(state["point"]["x0"]):
        solver.max_iterations = max(state["k"] + 1, round(state["k"] / max(clock.share(), 1e-9)) if state["k"] > 4 else 10**6)
        state, _ = solver.step(problem, state)
    return clock.rows


def codes(net, images, noise):
    with torch.no_grad():
        clean = net(images)
    y = clean + noise * clean.std() * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    return y.clamp(min=0) if float(clean.min()) >= 0 else y


def show(name, rows):
    print(f"  {name:<58}" + "".join(f"{f'{total:.4f} {residual:.3f} ({steps})':>22}" for _, total, residual, _, steps in rows), flush=True)


def table(title, runs, times):
    """Runs {name: times -> rows}, lifted ones and Adam's; errors, residuals and steps, and on how many images the best of ours lies below the best of Adam's."""
    for run in runs.values():
        run([1e-3])                                      # what a first call imports is not timed
    print(f"\n{title}\n  {'relative error, residual (steps) after CPU seconds':<58}" + "".join(f"{f'{t:g} s':>22}" for t in times))
    found = {}
    for name, run in runs.items():
        found[name] = run(times)
        show(name, found[name])
    best = [[min((rows[i] for name, rows in found.items() if name.startswith(kind)), key=lambda row: row[1]) for kind in ("lifted", "Adam")] for i in range(len(times))]
    print(f"  {'the best of ours, of Adam; images where ours is nearer':<58}" + "".join(f"{f'{a[1]:.4f} {b[1]:.4f} {int((a[3] < b[3]).sum())}':>22}" for a, b in best))


def deep(noise, times):
    net, test = encoder()
    images = test[:10 if quick else 50]
    y = codes(net, images, noise)
    methods = {"lifted, step 0.4": lambda t: lifted(net, y, images, t, step=0.4), "lifted, step 0.2": lambda t: lifted(net, y, images, t),
               "lifted, step 0.1": lambda t: lifted(net, y, images, t, step=0.1), "Adam 0.4, alpha 0.03 to 0.0003": lambda t: adam(net, y, images, t, 0.4, (0.03, 0.0003)),
               "Adam 0.2, alpha 0.03 to 0.0003": lambda t: adam(net, y, images, t, 0.2, (0.03, 0.0003)),
               "Adam 0.1, alpha 0.0005": lambda t: adam(net, y, images, t, 0.1, 0.0005), "Adam 0.1, alpha 0.009": lambda t: adam(net, y, images, t, 0.1, 0.009),
               "Adam 0.1, no TV": lambda t: adam(net, y, images, t, 0.1, 0.0)}
    table(f"{len(images)} images {tuple(images.shape[1:])} from {y.shape[1]} codes, {100 * noise:g} % noise, ReLU", methods, times)


def batches():
    """Milliseconds a sample and step, CPU, for batches; seconds on the wall by one and two workers."""
    net, test = encoder()
    make = lambda n: pl.LiftedInversion(net, codes(net, test[:n], 0.01), pl.HuberTotalVariation(DELTA), weight=1.5e-4, rho={1: 12.0, 2: 3.0}, fidelity="squared_error",
                                        constraint=pl.IndicatorBox(0, 1), shape=tuple(test.shape[1:]))
    print("\nbatches: CPU milliseconds a sample and step, minimum of 3 runs of 10 steps")
    for n in (1, 5, 50) if quick else (1, 5, 50, 500):
        problem, best = make(n), math.inf
        pl.ImplicitGradient(1).solve(problem, progress=False)
        for _ in range(3):
            began = time.process_time()
            pl.ImplicitGradient(10).solve(problem, record_every=10, progress=False)
            best = min(best, time.process_time() - began)
        print(f"  {n:>4} samples: {100 * best / n:8.3f}")
    n = 50 if quick else 500
    for workers in (1, pl.Workers(data=2, layers=1)):
        result = pl.ImplicitGradient(40).solve(make(n), record_every=40, progress=False, workers=workers)
        print(f"  {n} samples, 40 steps, {workers}: {result.seconds:.2f} s on the wall, error {float((result.solution - test[:n]).norm() / test[:n].norm()):.4f}")


TIMES = (0.25, 0.5) if quick else (0.25, 0.5, 1.0, 2.0, 5.0)
if arguments.part in (None, "deep"):
    deep(0.01, TIMES)
if arguments.part in (None, "batches"):
    batches()
