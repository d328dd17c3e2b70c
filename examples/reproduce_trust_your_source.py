"""Figures of "Trust your source" (arXiv 2303.00696) by the public classes: `python examples/reproduce_trust_your_source.py [--output DIR] [--quick]`.

Printed: published, ours, difference. Steps and numbers of steps are those of the authors' notebooks; some of their figures are those of a run of 1000 steps, not of its limit (the
certificate's distance says how far from it). float64. With `--quick`: the polynomial regression, and 100 steps on a 64 x 64 phantom (no published figure).
The images are scikit-image's. The authors' Hadamard transform is not normalised: |v| there is 16 = sqrt(256) times that of the orthonormal one.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

TV, PALM, pictures = pl.TotalVariation(), (lambda k: pl.PGD(k, step=1 / 9)), {}
print(f"| {'figure':<46} | {'published':>18} | {'ours':>18} | difference, relative |\n|---|---|---|---|")


def show(name, published, found):
    difference = "-" if published is None else f"{abs(found - published) / abs(published):.1e}"
    print(f"| {name:<46} | {'-' if published is None else f'{published:.12g}':>18} | {found:>18.12g} | {difference} |", flush=True)


# ---- polynomial regression, degree 25, 50 of 1000 points
state = np.random.RandomState(13)
sigma = 0.1
show("regression: norm of the noise", 3.1145297482659386, float(np.linalg.norm(sigma * state.randn(1000, 1))))
Phi = torch.tensor(np.vander(np.linspace(0, 1, 1000), 26, increasing=True)[state.permutation(1000)[:50]])
weights = torch.zeros(26, dtype=torch.float64)
weights[[0, 2, 5]] = torch.tensor([-1.0, 5.0, -3.0], dtype=torch.float64)
problem = pl.SourceCondition(pl.MatrixOperator(Phi), pl.L1Norm(), weights)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")                                  # 1.99 / L, the authors' step, is above 1 / L
    result = pl.FISTA(8000, step=1.99 / float(torch.linalg.matrix_norm(Phi, 2)) ** 2, restart=None, tolerance=1e-12).solve(problem, progress=False)
show("regression: accelerated steps to 1e-12", 5555, result.iterations)
show("regression: |v|", 15.327457817190666, float(result.solution.norm))
show("regression: alpha = sigma / |v|", 0.006524239126454746, float(result.solution.weight(sigma)))


def block(n, low, high):
    mask = torch.zeros(n, n, dtype=torch.bool)
    mask[low:high, low:high] = True
    return mask


def source(name, published, image, K, steps=1000, start=None, unit=1.0):
    problem = pl.SourceCondition(K, TV, image, start=start)
    solver = PALM(steps) if problem.reduced else pl.BCD(steps, step="lipschitz")
    result = solver.solve(problem, progress=False, record_every=steps)
    show(name, published, unit * float(result.solution.norm))
    pictures[f"{name}, K* v"] = problem.operator.adjoint(result.solution.element)
    return result


def optimal(name, published, image, transform, weight, steps, unit=1.0, forced=None):
    problem = pl.SamplingDesign(transform, TV, image, weight=weight, forced=forced)
    result = PALM(steps - 1).solve(problem, progress=False, record_every=steps)          # v of the last step belongs to the q before it
    found = result.solution
    show(f"{name}: |v|", published[0], unit * float(found.norm))
    show(f"{name}: samples", published[1], found.samples)
    pictures[f"{name}: mask, {found.percent:.1f} %"] = found.mask.double()
    return found, PALM(steps).solve(problem, resume=result, progress=False, record_every=steps).x


if arguments.quick:
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 64, dtype=torch.float64)] * 2, indexing="ij")
    image = (x**2 + 1.7 * y**2 < 0.6).double() - 0.4 * ((x - 0.2) ** 2 + y**2 < 0.1).double()
    pictures["image"] = image
    F = lambda mask=None: pl.FourierTransform(pl.Space(image.shape, torch.float64), mask)
    source("64 x 64, all of k-space: |v|", None, image, F(), 100)
    found, _ = optimal("64 x 64, sampling", (None, None), image, F(), 0.24 / 9, 100, forced=block(64, 32, 33))
    source("64 x 64, on that mask: |v|", None, image, F(found.mask), 100)
else:
    try:
        from skimage.color import rgb2gray
        from skimage.data import astronaut, shepp_logan_phantom
        from skimage.transform import resize
    except ImportError:
        print("the images need scikit-image: pip install 'paralift[examples]'")
    else:
        logan, man = torch.tensor(shepp_logan_phantom()), torch.tensor(resize(rgb2gray(astronaut()), (400, 400), anti_aliasing=True))
        F = lambda mask=None: pl.FourierTransform(pl.Space((400, 400), torch.float64), mask)
        pictures["Shepp-Logan"] = logan
        source("Shepp-Logan 400^2, all of k-space: |v|", 101.7771, logan, F())
        source("Shepp-Logan 400^2, block [135:265]^2: |v|", 72.7867, logan, F(block(400, 135, 265)))
        optimal("Shepp-Logan, optimal sampling", (None, 14553), logan, F(), 0.1 / 9, 1000, forced=block(400, 200, 201))
        pictures["astronaut"] = man
        source("astronaut 400^2, block [100:300]^2: |v|", 255.15003684600313, man, F(block(400, 100, 300)))
        found, point = optimal("astronaut, optimal sampling", (205.9323367190563, 38262), man, F(), 0.24 / 9, 1000, forced=block(400, 200, 201))
        source("astronaut, refined on that mask: |v|", 302.4659029626773, man, F(found.mask), 999, point)
        small = torch.tensor(resize(shepp_logan_phantom(), (256, 256), anti_aliasing=True))
        H = pl.HadamardTransform(pl.Space(small.shape, torch.float64), 0)
        found, point = optimal("Shepp-Logan 256^2, Hadamard columns", (900.0608864300362, 4713), small, H, 3 / 9 / 16, 2500, 16.0)
        source("Shepp-Logan 256^2, refined on that mask: |v|", 1183.91, small, pl.DiagonalOperator(found.mask.double()) @ H, 2499, point, 16.0)

from matplotlib.figure import Figure  # noqa: E402

across = 4 if len(pictures) > 4 else len(pictures)
rows = -(-len(pictures) // across)
fig = Figure(figsize=(3.6 * across, 3.8 * rows), layout="constrained")
axes = fig.subplots(rows, across, squeeze=False).ravel()
for ax in axes:
    ax.axis("off")
for ax, (title, picture) in zip(axes, pictures.items()):
    top = float(picture.abs().flatten().quantile(0.999))
    fig.colorbar(ax.imshow(picture, cmap="gray", vmin=-top if picture.min() < -1e-9 else 0, vmax=top or 1), ax=ax, shrink=0.7)
    ax.set_title(title.replace(": |v|", ""), fontsize=8)
fig.savefig(output / "reproduce_trust_your_source.png", dpi=120)
print(f"\nfigure: {output / 'reproduce_trust_your_source.png'}")
