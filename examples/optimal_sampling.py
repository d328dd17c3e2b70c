"""Where to sample k-space, learned from images: `python examples/optimal_sampling.py [--output DIR] [--quick]`.

A quarter of the samples, or of the Cartesian lines, for total variation and real images, of which k and -k hold the same: every mask takes one of the two. From training slices
come the support of their sparse source elements (`SamplingDesign`) and that mask refined by reconstructions (`refine_mask`); beside them variable density, (1 - r)^6 around a full
centre. All are tried on other slices. benchmarks/sampling_masks.py tunes every number and adds greedy choice. Data: chest slices of mri_images in PARALIFT_DATA
(with h5py), averaged to 128 x 128; without it, and with `--quick`, crops of scikit-image's pictures.
"""

import argparse
import os
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="32 x 32 crops")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

if not arguments.quick and "PARALIFT_DATA" in os.environ:
    slices, source = torch.nn.functional.avg_pool2d(torch.stack(list(pl.data.mri_slices("chest"))), 2), "chest slices"
    train, test = slices[:50], slices[60:]
else:
    from skimage import data

    pictures, source = [torch.tensor(getattr(data, name)() / 255.0).float() for name in ("coins", "moon", "camera", "brick")], "scikit-image"
    crops = torch.nn.functional.avg_pool2d(torch.stack([p[i:i + 64, j:j + 64] for i, j in ((60, 40), (140, 100), (200, 220)) for p in pictures]), 2)
    train, test = crops[:8], crops[8:]
side = train.shape[-1]
space = pl.Space((side, side))
F, budget = pl.FourierTransform(space), side * side // 4
zero = torch.zeros(side, side, dtype=torch.bool)
zero[side // 2, side // 2] = True                                   # total variation does not see it, so no source element does: it is forced
radius = (torch.arange(side) - side // 2).abs() / (side / 2)


def reconstruct(mask, images, steps=100, weight=1e-3):
    K = pl.FourierTransform(space, mask)
    problem = pl.Composite(nonsmooth=pl.LeastSquares(K, K(images)), linear=weight * pl.GroupL1Norm() @ pl.Gradient(space), start=K.adjoint(K(images)))
    return pl.PDHG(steps).solve(problem, progress=False, record_every=steps).x["x"]


shown = []
print(f"{source}, {side} x {side}, {len(train)} to learn from\n\n| pattern | mask | samples | PSNR of {len(test)} test slices, dB |\n" + "|---" * 4 + "|")
for pattern in ("samples", "lines"):
    labels, forced = (None, zero) if pattern == "samples" else (pl.line_groups((side, side)), zero.any(0).expand(side, side).clone())
    groups = pl.SampleGroups(F, labels, forced)
    r = (radius[:, None] ** 2 + radius**2).sqrt().flatten() / 2**0.5 if labels is None else radius
    density = torch.where(r < 0.06, torch.inf, (1 - r).clamp(min=0) ** 6)
    design = pl.SamplingDesign(F, pl.TotalVariation(), train, budget=budget, groups=labels, forced=forced)
    support = design.design(pl.FISTA(30), trials=3).mask
    learned, errors = pl.refine_mask(support, F, train, lambda mask, images: reconstruct(mask, images, 50), labels, forced, rounds=10 if arguments.quick else 60)
    for name, mask in (("variable density", groups.draw(density, budget)), ("source elements", support), ("refined", learned)):
        found = reconstruct(mask, test)
        level = float(pl.metrics.psnr(found, test).mean())
        print(f"| {pattern} | {name} | {int(mask.sum())} | {level:.2f} |", flush=True)
        shown.append((f"{pattern}, {name}\nmean {level:.2f} dB", mask, found[0]))

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(2.2 * len(shown) + 1, 7), layout="constrained")
axes, top = fig.subplots(3, len(shown)), float(test[0].max())
for (title, mask, picture), (sampled, image, error) in zip(shown, axes.T):
    sampled.imshow(mask, cmap="gray_r", extent=(-0.5, 0.5, 0.5, -0.5), interpolation="nearest"), sampled.set_title(title, fontsize=9)
    sampled.set_xticks((-0.5, 0, 0.5)), sampled.set_yticks((-0.5, 0, 0.5) if image is axes[1, 0] else ()), sampled.tick_params(labelsize=8)
    sampled.set_xlabel("k (cycles/pixel)", fontsize=8)
    drawn = image.imshow(picture, cmap="gray", vmin=0, vmax=top)
    wrong = error.imshow((picture - test[0]).abs(), cmap="gray", vmin=0, vmax=0.1 * top)
    for ax in (image, error):
        ax.set_xticks([]), ax.set_yticks([])
for ax, label in zip(axes[:, 0], ("k (cycles/pixel)\nblack: sampled", "first test slice,\nreconstructed", "its error")):
    ax.set_ylabel(label, fontsize=8)
fig.colorbar(drawn, ax=axes[1, -1], label="intensity"), fig.colorbar(wrong, ax=axes[2, -1], label="|error|")
fig.savefig(output / "optimal_sampling.png", dpi=120)
print(f"\nfigure: {output / 'optimal_sampling.png'}")
