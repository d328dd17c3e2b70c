"""Invert a perceptron: `python examples/invert_perceptron.py [--iterations 3000] [--noise 0.1] [--weight 0.015] [--quick] [--output DIR]`.

The experiment of Wang & Benning (Front. Appl. Math. Stat. 9:1176850, 2023): 512 measurements y = max(W u + b, 0), W and b standard normal, of a 64 x 64 image; about half of
them are zero, which says no more than w_j u + b_j <= 0. The image is the minimiser of B(y, W u + b) + 0.015 TV(u), by a primal-dual method (`PDHG`) that needs no derivative of
the activation. The paper takes gradient steps on B(y, W .); `PDHG` takes its prox instead, since steps of length 1/|W|^2 move what W does not see by almost nothing.
Noise is added to the positive measurements, and negative values are cut to 0, the activation's range.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import paralift as pl

parser = argparse.ArgumentParser()
parser.add_argument("--iterations", type=int, default=3000)
parser.add_argument("--noise", type=float, default=0.1, help="standard deviation; the measurements are of size 10")
parser.add_argument("--weight", type=float, default=0.015, help="alpha, the weight of total variation")
parser.add_argument("--quick", action="store_true", help="24 x 24 pixels, 160 measurements, 300 iterations")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
side, measurements, iterations = (24, 160, 300) if arguments.quick else (64, 512, arguments.iterations)
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)

torch.manual_seed(0)
y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
truth = torch.zeros(side, side)
truth[(x / 0.75) ** 2 + (y / 0.85) ** 2 < 1] = 0.4
truth[(x + 0.2).abs() + (y + 0.1).abs() < 0.35] = 1.0
truth[(x - 0.3) ** 2 + (y - 0.3) ** 2 < 0.05] = 0.0

network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(side * side, measurements), torch.nn.ReLU())
with torch.no_grad():
    network[1].weight.normal_()
    network[1].bias.normal_()
    clean = network(truth.unsqueeze(0))
data = (clean + arguments.noise * torch.randn_like(clean) * (clean > 0)).clamp(min=0)

problem = pl.LiftedInversion(network, data, pl.TotalVariation(), weight=arguments.weight, shape=(side, side))
print(problem)
print(f"convex: {problem.convex}")
errors = []
result = pl.PDHG(iterations).solve(problem, record_every=max(1, iterations // 60),
                                   callback=lambda r: errors.append(float((r.x["x"][0] - truth).norm() / truth.norm())))
image = result.solution[0]
print(result)
psnr = float(-10 * (image - truth).square().mean().log10())
print(f"relative error {errors[-1]:.4f}, PSNR {psnr:.2f} dB from {measurements} measurements ({int((data > 0).sum())} positive) of {side * side} pixels")

fig = Figure(figsize=(13, 3.4), layout="constrained")
axes = fig.subplots(1, 4)
back = problem.inputs[0]
shown = (("image, black 0, white 1", truth), ("back-projection, scaled: the start", back / back.abs().max()), (f"TV inversion, PSNR {psnr:.1f} dB", image))
for ax, (title, picture) in zip(axes, shown):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set(title=title, xticks=[], yticks=[])
axes[3].semilogy(result.history["iteration"], errors, "k-", label="relative error")
axes[3].semilogy(result.history["iteration"], torch.tensor(result.history["residual"]) / result.history["residual"][0], "k--", label="residual, first = 1")
axes[3].set(title="PDHG", xlabel="iteration", ylabel="relative")
axes[3].legend()
axes[3].grid(alpha=0.3)
fig.savefig(output / "invert_perceptron.png", dpi=120)
print(f"figure: {output}/invert_perceptron.png")
