"""Where to sample k-space: masks from the source elements of training images: `python examples/optimal_sampling.py [--output DIR] [--quick]`.

One mask for all images, at a budget (4x and 8x), samples apart and Cartesian lines, from training slices, tried on other slices: TV reconstruction from noise-free data,
every mask with its best of a few weights. The zero frequency is forced: total variation does not see it, so no source element does. Rivals: variable density, density
(1 - r)^p around a full centre, p and the centre the best ones on training images, mean of several draws; the samples of largest energy in the training images; and, for lines,
a greedy choice that adds the line which lowers the training error of TV reconstructions most.
Data: chest slices of mri_images in PARALIFT_DATA (with h5py), 60 to train and 10 to test; without it, and with `--quick`, crops of scikit-image's pictures.
"""

import argparse
import os
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="32 x 32 crops, 4x only, no greedy lines")
parser.add_argument("--train", type=int, default=20, help="training slices, evenly spaced among 60")
parser.add_argument("--test", type=int, default=5, help="test slices, evenly spaced among 10")
parser.add_argument("--greedy", action="store_true", help="also choose lines greedily; takes an hour")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

folder = Path(os.environ.get("PARALIFT_DATA", "")) / "mri_images" / "DeepADMM_chest"
if not arguments.quick and folder.is_dir():
    import h5py

    def load(file):
        with h5py.File(file) as data:
            return torch.tensor(data["im_ori"][:].T, dtype=torch.float32)

    slices, source = torch.stack([load(file) for file in sorted(folder.glob("*.mat"))]), "chest slices"
    train, test = slices[:60][::max(60 // arguments.train, 1)], slices[60:][::max(10 // arguments.test, 1)]
else:
    from skimage import data

    pictures, source = [torch.tensor(getattr(data, name)() / 255.0).float() for name in ("coins", "moon", "camera", "brick")], "scikit-image"
    crops = torch.stack([p[i:i + 64, j:j + 64] for i, j in ((60, 40), (140, 100), (200, 220)) for p in pictures])
    train, test = crops[:8, ::2, ::2].contiguous(), crops[8:, ::2, ::2].contiguous()
side = train.shape[-1]
space, steps = pl.Space((side, side)), 60 if arguments.quick else 200
F = pl.FourierTransform(space)
zero = torch.zeros(side, side, dtype=torch.bool)
zero[side // 2, side // 2] = True
centre_line = zero.any(0).expand(side, side)
radius = (torch.arange(side) - side // 2) / (side / 2)
print(f"{source}: {len(train)} to train, {len(test)} to test, {side} x {side}\n")


def reconstruct(mask, images, weight):
    K = pl.FourierTransform(space, mask)
    problem = pl.Composite(pl.LeastSquares(K, K(images)), linear=weight * pl.GroupL1Norm() @ pl.Gradient(space), start=K.adjoint(K(images)))
    return pl.PDHG(steps).solve(problem, progress=False, record_every=steps).x["x"]


def psnr(mask, images, weights=(1e-4, 1e-3, 3e-3)):
    """(mean PSNR in dB for the peak of each image, reconstruction), the best of a few weights."""
    found = [reconstruct(mask, images, w) for w in weights]
    level = lambda u: float((10 * (images.amax((1, 2)) ** 2 / (u - images).square().mean((1, 2))).log10()).mean())
    return max(((level(u), u) for u in found), key=lambda pair: pair[0])


def draw(budget, lines, power, centre, seed):
    """A variable-density mask: samples, or lines, drawn without replacement with weights (1 - r)^power, a full centre of radius `centre`."""
    r = radius.abs() if lines else (radius[:, None] ** 2 + radius**2).sqrt() / 2**0.5
    weights = (1 - r).clamp(min=1e-6) ** power
    weights[r < centre] = 1e12
    keys = torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed)).log() / weights
    chosen = torch.zeros(weights.numel(), dtype=torch.bool)
    chosen[keys.flatten().topk(budget // side if lines else budget).indices] = True
    return chosen.expand(side, side) if lines else chosen.view(side, side)


def variable_density(budget, lines):
    """Tuned on a few training images: (p, centre, masks of several draws)."""
    few, tries = train[:2], [(p, c) for p in ((2, 6) if arguments.quick else (2, 4, 8, 14)) for c in (0.05, 0.12)]
    best = max(tries, key=lambda t: psnr(draw(budget, lines, *t, 0), few, (1e-3,))[0])
    return best, [draw(budget, lines, *best, seed) for seed in range(1, 2 if arguments.quick else 4)]


def greedy_lines(budget):
    """The line whose addition gives the least error of TV reconstructions of three training images, one after the other, from the central line on."""
    taken = torch.zeros(side, dtype=torch.bool)
    taken[side // 2] = True
    while taken.sum() < budget // side:
        errors = {}
        for line in (~taken).nonzero().flatten().tolist():
            trial = taken.clone()
            trial[line] = True
            errors[line] = -psnr(trial.expand(side, side), train[:3], (1e-3,))[0]
        taken[min(errors, key=errors.get)] = True
    return taken.expand(side, side)


energy = F(train).abs().square().sum(0)
shown, rows = [], []
print("| budget | pattern | mask | samples | PSNR on test slices, dB |\n" + "|---" * 5 + "|")
for factor in (4,) if arguments.quick else (4, 8):
    for lines in (False, True):
        budget = side * (side // factor)
        groups = pl.line_groups((side, side)) if lines else None
        problem = pl.SamplingDesign(F, pl.TotalVariation(), train, budget=budget, groups=groups, forced=zero | centre_line if lines else zero)
        learned = problem.design(pl.FISTA(60), trials=4)
        per_line = energy.sum(0) if lines else energy.flatten()
        largest = torch.zeros(per_line.numel(), dtype=torch.bool)
        largest[per_line.topk(budget // side if lines else budget).indices] = True
        tuned, draws = variable_density(budget, lines)
        masks = {"source elements": [learned.mask], "largest energy": [largest.expand(side, side) if lines else largest.view(side, side)],
                 f"variable density, p = {tuned[0]}, centre {tuned[1]:g}": draws}
        if lines and arguments.greedy:
            masks["greedy"] = [greedy_lines(budget)]
        for name, several in masks.items():
            results = [psnr(mask, test) for mask in several]
            mean = sum(level for level, _ in results) / len(results)
            print(f"| {factor}x | {'lines' if lines else 'samples'} | {name} | {int(several[0].sum())} | {mean:.2f} |", flush=True)
            if factor == 4:
                shown.append((f"{name}\n{'lines' if lines else 'samples'}, 4x: {mean:.2f} dB", several[0], results[0][1][0]))

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(2.6 * len(shown), 5.8), layout="constrained")
for column, (title, mask, picture) in zip(fig.subplots(2, len(shown)).T, shown):
    column[0].imshow(mask, cmap="gray"), column[0].set_title(title, fontsize=8), column[0].axis("off")
    column[1].imshow(picture, cmap="gray", vmin=0, vmax=float(test[0].max())), column[1].axis("off")
fig.savefig(output / "optimal_sampling.png", dpi=120)
print(f"\nfigure: {output / 'optimal_sampling.png'}")
