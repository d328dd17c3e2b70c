"""Lifted inversion: the rate of the error bound, deep inversion against Adam on the image, cost per sample of batches.

`python benchmarks/inversion.py [--quick]`, on one thread.
"""

import math
import time

import torch
from peers import options
from torch import nn

import paralift as pl

quick = options(__doc__).quick
D = torch.float64


# ---- the theorem
def range_image(side, m, t, steps):
    """(network, image u, source v, |W^T v - p| / |p| for the p in dTV(u) that the solver found): u minimises TV(u) + |W_S u + b_S - g_S|^2 / (2 t) over the rows S that
    are active with a margin at a phantom, hence W^T v in dTV(u) for v = (g - W u - b) / t on S, 0 elsewhere."""
    g = torch.Generator().manual_seed(0)
    W, b = torch.randn(m, side * side, dtype=D, generator=g) / side, torch.randn(m, dtype=D, generator=g)
    phantom = torch.zeros(side, side, dtype=D)
    phantom[side // 5:side // 2, side // 4:3 * side // 4] = 1.0
    phantom[3 * side // 5:4 * side // 5, side // 3:side // 2] = 0.6
    rows = W @ phantom.flatten() + b > 0.3
    A, network = W[rows], nn.Sequential(nn.Flatten(), nn.Linear(side * side, m), nn.ReLU()).double()
    with torch.no_grad():
        network[1].weight.copy_(W), network[1].bias.copy_(b)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(side * side, len(A))).double()
    with torch.no_grad():
        linear[1].weight.copy_(A), linear[1].bias.copy_(b[rows])
    data = linear(phantom.unsqueeze(0)).detach()
    result = pl.PDHG(steps).solve(pl.LiftedInversion(linear, data, pl.TotalVariation(), weight=t, shape=(side, side)), record_every=steps, progress=False)
    u, v = result.solution[0], torch.zeros(m, dtype=D)
    v[rows] = ((data - linear(u.unsqueeze(0)))[0] / t).detach()
    p = pl.Gradient(pl.Space((side, side), D)).adjoint(result.state["dual"][1][0]) / t
    z = W @ u.flatten() + b
    assert (z[rows] > 0).all()                                   # v lies on active units
    return network, u, v, z, float((W.T @ v - p.flatten()).norm() / p.norm())


side, m, steps = (12, 100, 4000) if quick else (32, 400, 12000)
network, u, v, z, wrong = range_image(side, m, 0.05, steps)
J, p = pl.TotalVariation(pl.Space((side, side), D)), (network[1].weight.T @ v).view(side, side).detach()
print(f"\nperceptron, {side} x {side} pixels, {m} units, {int((z > 0).sum())} active; |v| = {float(v.norm()):.4g}, W^T v off a subgradient of TV by {wrong:.1e}, relatively")
print(f"{'noise d':>10} {'alpha':>10} {'D_J':>12} {'bound':>12} {'D_J/bound':>10}")
noise, rows = torch.randn(m, dtype=D, generator=torch.Generator().manual_seed(1)) * (z > 0), []
for size in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)[:3 if quick else 5]:
    y = (torch.relu(z) + size * noise / noise.norm()).clamp(min=0)
    d = math.sqrt(float(pl.LiftedBregman(pl.ReLU())(y, z)))
    alpha = pl.inversion_weight(v, d)
    problem = pl.LiftedInversion(network, y.unsqueeze(0), pl.TotalVariation(), weight=alpha, shape=(side, side), start=u.unsqueeze(0))
    found = pl.PDHG(steps).solve(problem, record_every=steps, progress=False).solution[0]
    error, bound = float(J.bregman(u, p)(found)), float(pl.inversion_error_bound(pl.ReLU(), y, v, alpha, d))
    rows.append((d, error))
    print(f"{d:>10.2e} {alpha:>10.2e} {error:>12.4e} {bound:>12.4e} {error / bound:>10.4f}  {'holds' if error <= bound else 'VIOLATED'}")
logs = torch.tensor(rows, dtype=D).clamp(min=1e-300).log10()
x = logs[:, 0] - logs[:, 0].mean()
print(f"slope of log D_J over log d: {float((x * logs[:, 1]).sum() / x.square().sum()):.3f} (the theorem's bound: 1)")


# ---- deep inversion
def encoder():
    """(encoder, test images): three layers to 300 codes, trained in an autoencoder by lifting."""
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
    return pl.ISGM(2 if quick else 8, batch_size=64, step=2e-3, schedule="linear", seed=0).solve(
        pl.LiftedTraining(net, x, x, loss="squared_error", rho=10.0), progress=False).network[:7], test[:50].view(-1, 1, n, n)


def adam(net, y, images, seconds, lr, alpha):
    """Adam on the image for |N(u) - y|^2 / 2 + alpha TV(u), TV smoothed by 1e-4 in its root; (error, steps)."""
    u = torch.zeros_like(images, requires_grad=True)
    optimiser, began, steps = torch.optim.Adam([u], lr=lr), time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        loss = 0.5 * (net(u) - y).square().sum()
        if alpha:
            across, down = nn.functional.pad(u.diff(dim=-1), (0, 1)), nn.functional.pad(u.diff(dim=-2), (0, 0, 0, 1))
            loss = loss + alpha * (across.square() + down.square() + 1e-8).sqrt().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps += 1
    return float((u.detach() - images).norm() / images.norm()), steps


def lifted(net, y, images, seconds, alpha):
    problem = pl.LiftedInversion(net, y, pl.TotalVariation(tolerance=1e-2), weight=alpha, rho=3.0, shape=tuple(images.shape[1:]))
    result = pl.FISTA(10**6, max_seconds=seconds).solve(problem, record_every=10, progress=False)
    return float((result.solution - images).norm() / images.norm()), result.iterations


net, images = encoder()
net.requires_grad_(False)
with torch.no_grad():
    clean = net(images)
    y = (clean + 0.01 * clean.std() * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))).clamp(min=0)
budgets = (1.0,) if quick else (3.0, 6.0, 12.0)
print(f"\ndeep inversion: {len(images)} test images {tuple(images.shape[1:])} from {y.shape[1]} codes with 1 % noise; relative error (steps) after seconds, all images together")
print(f"{'':<44}" + "".join(f"{f'{b:g} s':>18}" for b in budgets))
makers = {f"Adam, back-propagation, lr {lr:g}, alpha {a:g}": (lambda s, lr=lr, a=a: adam(net, y, images, s, lr, a)) for a in (0.0, 9e-3) for lr in (0.01, 0.03, 0.1)}
makers["LiftedInversion, FISTA, alpha 0.009"] = lambda s: lifted(net, y, images, s, 9e-3)
for name, run in makers.items():
    print(f"{name:<44}" + "".join("{:>18}".format("{:.4f} ({})".format(*run(b))) for b in budgets), flush=True)

# ---- batches
print("\nbatches: milliseconds a sample for 20 iterations of FISTA, minimum of 3")
for n in (1, 5, 25) if quick else (1, 5, 25, 50):
    best = math.inf
    for _ in range(3):
        problem = pl.LiftedInversion(net, y[:n], pl.TotalVariation(tolerance=1e-3), weight=9e-3, rho=3.0, shape=tuple(images.shape[1:]))
        began = time.perf_counter()
        pl.FISTA(20).solve(problem, record_every=20, progress=False)
        best = min(best, time.perf_counter() - began)
    print(f"  {n:>3} samples: {1000 * best / n:8.2f}")
