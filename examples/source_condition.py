"""Is an image a minimiser? Source conditions, their certificate, and the error bound they give: `python examples/source_condition.py [--output DIR] [--quick]`.

An image u of discs is sampled at low frequencies. A source element v with K* v in dJ(u), J total variation, is found twice: by FISTA on the lifted Bregman penalty, and as
the dual variable of PDHG on min J(x) with K x = K u. For noise of norm delta and alpha = delta / |v| the Bregman distance of the reconstruction to u is at most |v| delta: drawn
over four decades. The certificate says how far K* v is from dJ(u) at most, so it says when the bound is not proved.
"""

import argparse
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="32 x 32, fewer steps")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

side, steps = (32, 1500) if arguments.quick else (64, 6000)
y, x = torch.meshgrid(*[torch.linspace(-1, 1, side, dtype=torch.float64)] * 2, indexing="ij")
image = ((x + 0.2) ** 2 + (y - 0.1) ** 2 < 0.3).double() + 0.5 * ((x - 0.4) ** 2 + (y + 0.4) ** 2 < 0.12).double()
space = pl.Space(image.shape, torch.float64)
mask = (x.abs() < 0.7) & (y.abs() < 0.7)
mask = mask & mask.flip(0, 1).roll((1, 1), (0, 1))                     # symmetric about the zero frequency, as real images need
K = pl.FourierTransform(space, mask)

problem = pl.SourceCondition(K, pl.TotalVariation(), image)
print(problem)
lifted = pl.FISTA(steps, tolerance=1e-9).solve(problem, progress=False)
print(f"\nFISTA, {lifted.iterations} steps: {lifted.solution}")
dual = pl.PDHG(steps, tolerance=1e-9).solve(problem.primal_dual(), progress=False)
certificate = problem.from_dual(dual)
print(f"\nPDHG, {dual.iterations} steps: {certificate}")
best = min((lifted.solution, certificate), key=lambda c: float(c.distance))

generator = torch.Generator().manual_seed(0)
noise = K(K.adjoint(torch.randn(side, side, dtype=torch.complex128, generator=generator)))
noise = noise / noise.abs().square().sum().sqrt()
p, J, deltas, measured = K.adjoint(best.element), pl.TotalVariation(), [10.0, 1.0, 0.1, 0.01, 1e-3][:3 if arguments.quick else 5], []
print("\n| delta | alpha | D(u_alpha, u) | |v| delta |\n|---|---|---|---|")
for delta in deltas:
    alpha = float(best.weight(delta))
    u = pl.PDHG(steps, tolerance=1e-8).solve(problem.reconstruction(K(image) + delta * noise, alpha), progress=False).x["x"]
    measured.append(float(J(u) - J(image) - (p * (u - image)).sum()))
    print(f"| {delta:g} | {alpha:.3g} | {measured[-1]:.4g} | {float(best.rate(delta)):.4g} |", flush=True)
    if delta == deltas[1]:
        shown = u

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(13, 6.4), layout="constrained")
axes = fig.subplots(2, 3)
for ax, title, picture, limits, label in ((axes[0, 0], "image u", image, (0, 1.5), "intensity"),
                                          (axes[0, 1], f"subgradient K* v, |v| = {float(best.norm):.3g}", p, (None, None), "K* v"),
                                          (axes[0, 2], "|q|, at most 1, and 1 on the edges", best.subgradient[0].square().sum(0).sqrt(), (0, 1), "|q|"),
                                          (axes[1, 1], f"reconstruction, delta = {deltas[1]:g}", shown, (0, 1.5), "intensity")):
    drawn = ax.imshow(picture, cmap="gray", vmin=limits[0], vmax=limits[1])
    ax.set_title(title, fontsize=10), ax.axis("off"), fig.colorbar(drawn, ax=ax, shrink=0.7, label=label)
axes[1, 0].imshow(mask, cmap="gray_r", extent=(-0.5, 0.5, 0.5, -0.5))
axes[1, 0].set_title(f"black: sampled, {100 * float(mask.double().mean()):.0f} % of k-space", fontsize=10)
axes[1, 0].set(xlabel="k (cycles/pixel)", ylabel="k (cycles/pixel)", xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
ax = axes[1, 2]
ax.loglog(deltas, [float(best.rate(d)) for d in deltas], "k--", label="bound |v| delta")
ax.loglog(deltas, [max(m, 1e-12) for m in measured], "ko-", label="measured Bregman distance")
ax.set(xlabel="norm of the noise, delta", ylabel="D(u_alpha, u)", title=f"distance of K* v to dJ(u): at most {float(best.distance):.1e}")
ax.grid(alpha=0.3), ax.legend(fontsize=9)
fig.savefig(output / "source_condition.png", dpi=120, bbox_inches="tight")
print(f"\nfigure: {output / 'source_condition.png'}")
