"""ISGM against torch's own loop with fused Adam: MNIST, 784-256-256-10, batch 128, one thread, same weights and order of samples, alternating.

`python benchmarks/mnist_mlp.py [--quick]`: accuracy and time; the largest step that trains; what a sweep does to x and to the energy.
"""

import copy

import torch
from peers import BATCH, Lifted, Torch, accuracy, compare, mnist, options
from torch import nn

import paralift as pl

quick = options(__doc__).quick
x, y, xt, yt = mnist(12800 if quick else None)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


makers = {"torch, fused Adam": lambda s: Torch(network(s), x, y, s), "torch, fused Adam, torch.compile": lambda s: Torch(network(s), x, y, s, compiled=True),
          "ISGM, one sweep": lambda s: Lifted(network(s), x, y, s)}
compare({n: m for n, m in makers.items() if not (quick and "compile" in n)}, xt, yt, epochs=2 if quick else 5, seeds=1 if quick else 3)

net, few = network(0), slice(0, 12800)
problem = pl.LiftedTraining(net, x[few], y[few], validation=(xt, yt))
steps = [0.3, 3.0, 30.0] if quick else [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


def trained(step, optimizer):
    own, loss = copy.deepcopy(net), nn.CrossEntropyLoss()
    optimizer = optimizer(own.parameters(), lr=step)
    for i in torch.randperm(len(x[few]), generator=torch.Generator().manual_seed(0)).split(BATCH):
        optimizer.zero_grad()
        loss(own(x[few][i]), y[few][i]).backward()
        optimizer.step()
    return accuracy(own, xt, yt)


def implicit(step, sweeps):
    return 100 * pl.ISGM(1, batch_size=BATCH, step=step, sweeps=sweeps, metric="plain").solve(problem).history.get("accuracy", [0])[-1]


print("\ntest accuracy (%) after one pass on 12800 samples, by step; 0: diverged")
print(f"{'':<24}" + "".join(f"{s:>8g}" for s in steps))
rows = {"SGD": lambda s: trained(s, torch.optim.SGD), "Adam": lambda s: trained(s, torch.optim.Adam), **{f"ISGM, sweeps={k}": lambda s, k=k: implicit(s, k) for k in (1, 3, 10)}}
for name, row in rows.items():
    print(f"{name:<24}" + "".join(f"{row(s):8.1f}" for s in steps))


class Recorded(pl.LiftedBregman):
    """Keeps |x - sigma(z)| / |sigma(z)| of the last backward sweep."""

    def _gradient_z_at(self, x, z, p):
        r = super()._gradient_z_at(x, z, p)
        self.ratio = float(r.norm() / p.norm())
        return r


recorded = pl.LiftedTraining(net, x[few], y[few], penalty=Recorded)
for name, theta in (("at the first weights", recorded.start_theta()), ("after one pass", pl.ISGM(1, batch_size=BATCH).solve(problem).x)):
    recorded.restrict(torch.arange(BATCH)).explicit_gradient(theta)
    ratios = ", ".join(f"layer {s.index} {s.penalty.ratio:.4f}" for s in recorded.stages[:-1])
    sub = problem.restrict(torch.arange(BATCH), theta, 1.0)
    energies = [float(sub.value(sub.forward(theta))), *(float(sub.implicit_energy(theta, 1.0, k)) for k in (1, 3, 10))]
    whole = problem.restrict(torch.arange(BATCH))
    after = whole.penalty_residuals(sub.implicit_point(theta, 1.0, 3)[1])
    print(f"\n{name}, default rho, batch 128:\n  |x - sigma(z)| / |sigma(z)| in the default sweep: {ratios}; after 3 implicit sweeps: "
          + ", ".join(f"layer {l} {v:.4f}" for l, v in after.items())
          + "\n  E_S + |theta - theta_k|^2/(2 tau), tau = 1, after 0, 1, 3, 10 sweeps: " + ", ".join(f"{e:.4f}" for e in energies))
