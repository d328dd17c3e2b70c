"""A penalty of one's own, from three methods: checked, trained on the digits and drawn. `python examples/new_penalty.py [--quick] [--output DIR]`.

The Bregman penalty grows without bound as x leaves sigma(z). Let x leave by a sparse error e at the price c |e|_1 instead:

    P(x, z) = min over u of B(u, z) + c |x - u|_1,      attained at u = x clipped to [sigma(z - c), sigma(z + c)] for coordinatewise activations.

For the identity this is Huber's function of x - z. No unit's residual dP/dz = sigma(z) - u exceeds c, so a step that is too long for "bregman" and "mac" does less harm.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import paralift as pl


class HuberBregman(pl.Penalty):
    """min over u of B(u, z) + c |x - u|_1."""

    def __init__(self, potential, c=0.2):
        super().__init__(potential)
        self.c = c

    def _nearest(self, x, z):
        return x.clamp(self.activation(z - self.c), self.activation(z + self.c))

    def _value(self, x, z):
        u = self._nearest(x, z)
        return pl.LiftedBregman(self.potential)(u, z) + self.c * (x - u).abs().sum(-1)

    def _gradient_z(self, x, z):
        return self.activation(z) - self._nearest(x, z)

    def _prox_x(self, v, z, tau):
        return pl.LiftedBregman(self.potential).prox_x(v, z, tau).clamp(v - tau * self.c, v + tau * self.c)


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--quick", action="store_true", help="two steps, one seed, two epochs")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)

pl.testing.check_penalty(HuberBregman(pl.ReLU()))
pl.testing.check_penalty(HuberBregman(pl.Tanh()))

penalties = {"new": HuberBregman, "bregman": "bregman", "mac": "mac"}
steps, seeds, epochs = ((0.1, 1.0), range(1), 2) if arguments.quick else ((0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0), range(3), arguments.epochs)
(images, labels), test = pl.data.digits()
accuracy = {}
for name, penalty in penalties.items():
    for step in steps:
        for seed in seeds:
            torch.manual_seed(seed)
            network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
            problem = pl.LiftedTraining(network, images, labels, penalty=penalty, validation=test)
            result = pl.ISGM(epochs, batch_size=32, metric="plain", step=step, seed=seed).solve(problem, progress=False)
            found = [100 * a for a in result.history.get("accuracy", [])]
            accuracy[name, step, seed] = found + [0.0] * (epochs - len(found))           # a run that diverged counts as 0
        print(f"{name:>8}, step {step:g}: test accuracy {', '.join(f'{accuracy[name, step, seed][-1]:.1f}' for seed in seeds)} %")

fig = Figure(figsize=(10, 7), layout="constrained")
(value, slope), (curve, ends) = fig.subplots(2, 2)
styles = {"new": "k-", "bregman": "k--", "mac": "k:"}
x = torch.linspace(-1.5, 1.5, 601, dtype=torch.float64).unsqueeze(1)                     # a batch of elements with one coordinate
z = torch.full_like(x, 0.5)
for name, P in {"new": HuberBregman(pl.Tanh()), "bregman": pl.LiftedBregman(pl.Tanh()), "mac": pl.MAC(pl.Tanh())}.items():
    inside = torch.isfinite(P(x, z))
    value.plot(x[inside], P(x, z)[inside], styles[name], label=name)
    slope.plot(x[inside], P.gradient_z(x, z)[inside], styles[name], label=name)
value.plot(torch.tanh(z[0]), 0, "ko")
slope.plot(torch.tanh(z[0]), 0, "ko")
value.set(title=r"P(x, z) for tanh at z = 0.5; dot: x = $\sigma(z)$", xlabel="x", ylabel="P(x, z)")
slope.set(title=r"residual dP/dz: |dP/dz| $\leq$ c = 0.2 for the new one", xlabel="x", ylabel="dP/dz")
for name, style in styles.items():
    last = torch.tensor([[accuracy[name, step, seed][-1] for seed in seeds] for step in steps])
    ends.plot(steps, last.median(1).values, style, label=name)
    ends.fill_between(steps, last.min(1).values, last.max(1).values, color="0.5", alpha=0.3, linewidth=0)
    curve.plot(range(1, epochs + 1), accuracy[name, 1.0, 0], style, marker="o", markersize=3, label=name)
curve.set(title="digits, 64-64-64-10 ReLU, explicit step 1", xlabel="passes over the data", ylabel="test accuracy (%)", ylim=(0, 100))
curve.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
ends.set(title=f"after {epochs} passes, by step (bands: {len(seeds)} seed{'s' * (len(seeds) > 1)})", xlabel="step", ylabel="test accuracy (%)", xscale="log", ylim=(0, 100))
ends.set_xticks(steps, [f"{step:g}" for step in steps], minor=False)
ends.minorticks_off()
for ax in (value, slope, curve, ends):
    ax.grid(alpha=0.3)
    ax.legend()
fig.savefig(output / "new_penalty.png", dpi=120)
print(f"figure: {output / 'new_penalty.png'}")
