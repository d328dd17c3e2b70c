"""Lifted inversion of a perceptron: the rate at which the Bregman distance falls with the noise, and the theorem's bound (`benchmarks/deep_inversion.py`: more layers).

`python benchmarks/inversion.py [--quick]`, on one thread.
"""

import math

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
