"""An activation of one's own, from its potential: checked, trained on the digits and drawn. `python examples/new_potential.py [--quick] [--output DIR]`.

The logarithmic barrier Psi(x) = -a log x, x > 0, has the prox (z + sqrt(z^2 + 4 a s))/2: as an activation (s = 1) this is squareplus (Barron,
arXiv 2112.11687, 2021), a smooth ReLU. Value and prox are all that PARALIFT needs of it: no derivative is written down or taken.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import paralift as pl


class LogBarrier(pl.Functional):
    """Psi(x) = -a sum log x_j on x > 0: sigma(z) = (z + sqrt(z^2 + 4 a)) / 2."""

    def __init__(self, a):
        super().__init__()
        self.a = a

    def _value(self, x):
        return torch.where(x > 0, -self.a * x.log(), torch.inf).sum(-1)

    def _prox(self, x, sigma):
        root = torch.sqrt(x * x + 4 * self.a * sigma)
        return torch.where(x > 0, (x + root) / 2, 2 * self.a * sigma / (root - x))          # the same number twice; the second form does not cancel for x < 0


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--quick", action="store_true", help="two epochs")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)

barrier = LogBarrier(0.1)
pl.testing.check_functional(barrier)
pl.testing.check_penalty(pl.LiftedBregman(barrier))

(images, labels), test = pl.data.digits()
results = {}
for name, potential in {"logarithmic barrier": barrier, "ReLU": pl.ReLU()}.items():
    torch.manual_seed(0)
    network = pl.networks.chain(pl.affine(64, 64), potential, pl.affine(64, 64), potential, pl.affine(64, 10))
    problem = pl.LiftedTraining(network, images, labels, penalty="bregman", validation=test)
    results[name] = pl.ISGM(epochs=2 if arguments.quick else arguments.epochs, batch_size=32, seed=0).solve(problem)
    print(f"{name}: test accuracy {100 * results[name].history['accuracy'][-1]:.2f} %")

fig = Figure(figsize=(10, 7), layout="constrained")
(left, right), (below, curve) = fig.subplots(2, 2)
z = torch.linspace(-2, 2, 401, dtype=torch.float64).unsqueeze(1)                            # a batch of elements with one coordinate
x = torch.linspace(0.001, 2, 500, dtype=torch.float64).unsqueeze(1)
left.plot(z, pl.activation(barrier, z), "k-", label=f"logarithmic barrier, a = {barrier.a}")
left.plot(z, pl.activation(pl.ReLU(), z), "k:", label="ReLU")
left.set(title=r"activation $\sigma = \mathrm{prox}_\Psi$", xlabel="z", ylabel=r"$\sigma(z)$")
right.plot(x, barrier(x), "k-", label="logarithmic barrier")
right.plot(x, pl.ReLU()(x), "k:", label="ReLU (indicator)")
right.set(title=r"potential $\Psi$", xlabel="x", ylabel=r"$\Psi(x)$")
B = pl.LiftedBregman(barrier)
for value, style in ((-1.0, "k:"), (0.5, "k--"), (1.5, "k-")):
    at = torch.tensor([value], dtype=torch.float64)
    below.plot(x, B(x, at.expand_as(x)), style, label=f"z = {value:g}")
    below.plot(B.activation(at), 0, "ko")
below.set(title=r"penalty B(x, z), which ties x to z; dots: x = $\sigma(z)$", xlabel="x", ylabel="B(x, z)", ylim=(-0.1, 2))
for ax in (right, below):
    ax.axvspan(-0.5, 0, color="0.85", label=r"here $\infty$")
    ax.set_xlim(-0.5, 2)
for (name, result), style in zip(results.items(), ("k-", "k:")):
    curve.plot(result.history["data_passes"], [100 * a for a in result.history["accuracy"]], style, label=f"{name}: {100 * result.history['accuracy'][-1]:.1f} %")
curve.set(title="digits, 64-64-64-10, held-out images", xlabel="passes over the data", ylabel="accuracy (%)")
curve.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
for ax in (left, right, below, curve):
    ax.grid(alpha=0.3)
    ax.legend(loc="upper right" if ax is below else "best")
fig.savefig(output / "new_potential.png", dpi=120)
print(f"figure: {output / 'new_potential.png'}")
