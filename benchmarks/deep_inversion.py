"""Deep inversion: images from the codes of an encoder, by the lifted energy and by Adam on the image with back-propagation, at equal CPU time.

`python benchmarks/deep_inversion.py [--quick] [--tune]`, on one thread. Both methods minimise data term + alpha TV(u) over images in [0, 1] (TV with Huber's function, the same kernel in both), start at the same
time zero (the lifted problem's construction and norms included), and have their constants from `--tune`, on 50 other images.
"""

import argparse
import itertools
import math
import time

import torch
from torch import nn

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a few seconds: the digits where MNIST is not at hand, a short training, two times")
parser.add_argument("--tune", action="store_true", help="the grids on the tuning images, in place of the tables")
arguments = parser.parse_args()
quick = arguments.quick
torch.set_num_threads(1)
print(f"torch {torch.__version__}, one thread{', quick' if quick else ''}")


def encoder(activation=nn.ReLU):
    """(encoder, images): three layers to 300 codes, trained in an autoencoder of six by lifting."""
    torch.manual_seed(0)
    try:
        (train, _), (test, _) = pl.data.mnist(flatten=False)
    except FileNotFoundError:
        (train, _), (test, _) = (tuple((x.view(-1, 8, 8), y)) for x, y in pl.data.digits())
    n, q = train.shape[1], train.shape[1] // 4
    net = nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=2, padding=1), activation(), nn.Conv2d(8, 16, 4, stride=2, padding=1), activation(), nn.Flatten(), nn.Linear(16 * q * q, 300), activation(),
        nn.Linear(300, 16 * q * q), activation(), nn.Unflatten(1, (16, q, q)), nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), activation(),
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


def adam(net, y, images, times, rate, alpha, falling=False, start=0.0):
    """Adam on |N(u) - y|^2 / 2 + alpha TV(u), u cut to [0, 1] after every step; `falling`: a run for each time, its rate falling to 0 linearly."""
    if falling and len(times) > 1:
        return [adam(net, y, images, [t], rate, alpha, True, start)[0] for t in times]
    clock, R = Clock(net, y, images, times), pl.HuberTotalVariation(DELTA, images.shape[-2:])
    u = torch.full_like(images, start).requires_grad_()
    optimiser = torch.optim.Adam([u], lr=rate)
    while clock.going(u.detach()):
        if falling:
            optimiser.param_groups[0]["lr"] = rate * max(1 - clock.share(), 0.01)
        optimiser.zero_grad()
        (0.5 * (net(u) - y).square().sum()).backward()
        with torch.no_grad():
            u.grad.add_(R.gradient(u), alpha=alpha)
            optimiser.step()
            u.clamp_(0, 1)
    return clock.rows


def lifted(net, y, images, times, alpha, rho):
    """Block coordinate descent with Nesterov's inertia on the lifted energy of the same data term, TV and box."""
    clock = Clock(net, y, images, times)
    problem = pl.LiftedInversion(net, y, pl.HuberTotalVariation(DELTA), weight=alpha, rho=rho, constraint=pl.IndicatorBox(0, 1), shape=tuple(images.shape[1:]))
    solver = pl.BCD(step="lipschitz", inertia="nesterov")
    state = solver.start(problem)
    while clock.going(state["point"]["x0"]):
        state, _ = solver.step(problem, state)
    return clock.rows


def codes(net, images, noise):
    with torch.no_grad():
        clean = net(images)
    return clean + noise * clean.std() * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))


def show(name, rows):
    print(f"  {name:<58}" + "".join(f"{f'{total:.4f} {residual:.3f} ({steps})':>22}" for _, total, residual, _, steps in rows), flush=True)


def table(title, runs, times):
    """Runs {name: times -> rows}, the first one ours; prints errors, residuals and steps, and on how many images ours lies below each of the others."""
    print(f"\n{title}\n  {'relative error, residual (steps) after CPU seconds':<58}" + "".join(f"{f'{t:g} s':>22}" for t in times))
    found = {}
    for name, run in runs.items():
        found[name] = run(times)
        show(name, found[name])
    ours = next(iter(found))
    for name in list(found)[1:]:
        wins = [int((a[3] < b[3]).sum()) for a, b in zip(found[ours], found[name])]
        print(f"  images of {len(found[ours][0][3])} where ours is nearer than {name}: {', '.join(map(str, wins))}")
