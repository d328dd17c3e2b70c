"""Activations that are flat or have no derivative: lifting beside back-propagation. `python examples/nondifferentiable.py [--epochs N] [--output DIR] [--quick]`.

Digits, 64-128-128-10, the hidden layers with a soft threshold, a narrow clip, sparsemax, or the proximal map of the nuclear norm or of total variation on the units as an
8 x 16 image. Back-propagation multiplies by the (sub)derivative that torch finds; on a flat piece it is 0 and nothing is learned. A lifted sweep compares sigma(z)
with sigma(z - g / rho), g the pull on the layer's output: where rho is small enough for g / rho to reach across the flat piece, there is a residual to learn from.

How to choose rho: the size of g over the width of the flat piece, |g| / width; the first line printed for each activation shows |g| at the start.
"""

import argparse
import copy
from pathlib import Path

import torch
from torch import nn

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="two activations, two epochs")
arguments = parser.parse_args()
output, epochs = Path(arguments.output), 2 if arguments.quick else arguments.epochs
output.mkdir(parents=True, exist_ok=True)

(x, y), (xt, yt) = pl.data.digits()
RHO = (1.0, 0.01) if arguments.quick else (1.0, 0.1, 0.01, 0.001)
ACTIVATIONS = {"clip to [-0.05, 0.05]": (pl.Clip(-0.05, 0.05), None), "soft threshold 1": (pl.SoftThreshold(1.0), None), "soft threshold 3": (pl.SoftThreshold(3.0), None),
               "sparsemax": (pl.Sparsemax(), None), "nuclear norm, 3": (3.0 * pl.NuclearNorm(), (8, 16)),
               "total variation, 1": (pl.TotalVariation(tolerance=1e-3, max_iterations=40), (8, 16))}
if arguments.quick:
    ACTIVATIONS = {name: ACTIVATIONS[name] for name in ("soft threshold 1", "nuclear norm, 3")}


def network(potential, image):
    torch.manual_seed(0)
    activation = [pl.networks.chain(potential)] if image is None else [nn.Unflatten(1, image), pl.networks.chain(potential), nn.Flatten()]
    return nn.Sequential(nn.Linear(64, 128), *activation, nn.Linear(128, 128), *copy.deepcopy(activation), nn.Linear(128, 10))


def back_propagation(net):
    """(test accuracy, training loss) after Adam with torch's derivatives; None where torch has none."""
    net, loss = copy.deepcopy(net), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for i in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(32):
            optimizer.zero_grad()
            try:
                loss(net(x[i]), y[i]).backward()
            except RuntimeError:
                return None
            optimizer.step()
    with torch.no_grad():
        return float((net(xt).argmax(1) == yt).double().mean()), float(loss(net(x), y))


def pull(problem):
    """|g| on the last hidden layer, the median over the units, at the start."""
    part = problem.restrict(slice(0, 128))
    stage, point = part.stages[-1], part.forward(part.initial)
    z, local = stage.evaluate(part._input(stage, point), point)
    return float(local(part.loss.gradient(z, part.targets))[0].abs().median())


rows = {}
print(f"test accuracy (%) after {epochs} epochs, in brackets the training loss; chance is 10 %")
print(f"{'activation':<24}{'|g|':>8}{'back-propagation':>20}" + "".join(f"{f'lifted, rho {rho:g}':>20}" for rho in RHO))
for name, (potential, image) in ACTIVATIONS.items():
    net = network(potential, image)
    found = [back_propagation(net)]
    for rho in RHO:
        problem = pl.LiftedTraining(net, x, y, rho=rho, validation=(xt, yt))
        result = pl.ISGM(epochs, batch_size=32, seed=0).solve(problem, progress=False)
        found.append((result.history["accuracy"][-1], result.objective))
    rows[name] = found
    print(f"{name:<24}{pull(problem):>8.4f}" + "".join(f"{'no derivative' if f is None else f'{100 * f[0]:.1f} ({f[1]:.3f})':>20}" for f in found), flush=True)

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(1.7 * len(rows) + 2, 3.6), layout="constrained")
ax = fig.subplots()
labels = ["back-propagation", *(f"lifted, rho = {rho:g}" for rho in RHO)]
for k, label in enumerate(labels):
    places = [i + (k - len(RHO) / 2) / (len(labels) + 1) for i in range(len(rows))]
    heights = [100 * f[k][0] if f[k] is not None else 0 for f in rows.values()]
    ax.bar(places, heights, 1 / (len(labels) + 1), label=label, color=str(0.85 * k / max(1, len(labels) - 1)), edgecolor="black", hatch="//" if k == 0 else None)
    for place, f in zip(places, rows.values()):
        if f[k] is None:
            ax.text(place, 1, "no derivative", rotation=90, fontsize=7, ha="center", va="bottom")
ax.set_xticks(range(len(rows)), rows)
ax.axhline(10, color="black", linewidth=0.6, linestyle=":", label="chance")
ax.set(xlabel="activation of the hidden layers", ylabel="test accuracy (%)", ylim=(0, 100))
ax.legend(fontsize=8, ncols=len(labels) + 1, loc="upper center", bbox_to_anchor=(0.5, 1.16), frameon=False)
fig.savefig(output / "nondifferentiable.png", dpi=120)
print(f"figure: {output / 'nondifferentiable.png'}")
