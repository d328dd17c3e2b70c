"""A real brain from a quarter of its k-space, five reconstructions side by side: `python examples/mri_cartesian_tv.py [--acceleration R] [--seed S] [--output DIR] [--quick]`.

Three lines from data to image:

    A = pl.MRI(mask, coil_maps=pl.espirit(kspace))
    problem = pl.Reconstruction(A, kspace, regulariser=2e-3 * pl.TotalVariation())
    pl.FISTA(20).solve(problem).show(reference=truth)

Eight coils, samples drawn with variable density around a 24 x 24 centre, from which ESPIRiT finds the maps. The images: zero filled (A* y), conjugate gradients (SENSE; the number
of iterations regularises), total variation and an orthogonal wavelet's l1 norm by FISTA, total generalised variation by PDHG, which splits it. The weights are not tuned: the
discrepancy principle finds each from the noise. It is read in the corners of k-space, where a head leaves no signal (12 x 12 samples each, of the full grid: they stand for the
noise scan of a protocol). So no method sees the reference, the coil-combined full data, against which PSNR (peak of the reference) and SSIM of the magnitude are counted, with all
images 0 where the maps are: no datum speaks of these pixels. The data are scaled to |A* y| <= 1.
The data come from PARALIFT_DATA/mri_kspace (8 x 230 x 180, cut to 224 x 176 frequencies, which halve four times for the wavelet); without them, and with --quick, from a phantom.
"""

import argparse
import time
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--acceleration", type=float, default=4.0)
parser.add_argument("--seed", type=int, default=0, help="of the mask")
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="a small phantom")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

try:
    full = None if arguments.quick else pl.data.brain()[:, 3:227, 2:178].contiguous()
    source = "phantom" if full is None else "brain"
except FileNotFoundError:
    full, source = None, "phantom"
if full is None:
    full = pl.data.phantom((64, 64) if arguments.quick else (224, 176), noise=0.02)[2]
shape = tuple(full.shape[1:])

# ---- what the scanner would have measured
mask = pl.variable_density_mask(shape, arguments.acceleration, calibration=min(24, shape[0] // 4), seed=arguments.seed)
kspace = full * mask
maps = pl.espirit(kspace, calibration=min(24, shape[0] // 4))
A = pl.MRI(mask, coil_maps=maps)
scale = float(A.adjoint(kspace).abs().max())
kspace, reference = kspace / scale, pl.MRI(coil_maps=maps).adjoint(full / scale).abs()

rim = [torch.cat([torch.arange(12), torch.arange(n - 12, n)]) for n in shape]
corners = full[:, rim[0][:, None], rim[1]] / scale
noise = float(corners.abs().square().mean().sqrt()) if source == "brain" else 0.02 / scale                  # a phantom's edges reach the corners

# ---- five images
W, short = pl.Wavelet(shape, "db4"), 3 if arguments.quick else 1
choices = {
    "total variation": (pl.TotalVariation(tolerance=1e-4), pl.FISTA(25 // short)),
    "wavelet l1": (pl.WeightedL1Norm(W.details) @ W, pl.FISTA(40 // short)),
    "total generalised variation": (pl.TotalGeneralisedVariation(), pl.PDHG(150 // short)),
}
found = {}
began = time.perf_counter()
found["zero filled"] = (A.adjoint(kspace), "", time.perf_counter() - began, 0.0)
result = pl.ConjugateGradient(5).solve(pl.Reconstruction(A, kspace), progress=False)
found["conjugate gradients"] = (result.solution, "5 iterations", result.seconds, 0.0)
for name, (regulariser, solver) in choices.items():
    began = time.perf_counter()
    weight, result, table = pl.discrepancy_weight(pl.Reconstruction(A, kspace, regulariser=regulariser), noise, solver, start=5e-3, tolerance=0.03 * short)
    searched = time.perf_counter() - began
    problem = pl.Reconstruction(A, kspace, regulariser=weight * regulariser)
    result = solver.solve(problem, progress=False, record_every=solver.max_iterations)              # timed alone, from 0
    found[name] = (result.solution, f"weight {weight:.2g}", result.seconds, searched)

support = maps.abs().sum(0) > 0
found = {name: (x * support, *rest) for name, (x, *rest) in found.items()}
psnr = lambda x: float(pl.metrics.psnr(x.abs(), reference))
ssim = lambda x: float(pl.metrics.ssim(x.abs(), reference))
print(f"{source} {shape}, {len(full)} coils, acceleration {arguments.acceleration:g}, {int(mask.sum())} samples; noise {noise:.4f}\n")
print("| | chosen by the discrepancy | PSNR (dB) | SSIM | reconstruction (s) | search of the weight (s) |\n|---|---|---|---|---|---|")
for name, (x, chosen, seconds, searched) in found.items():
    print(f"| {name} | {chosen if searched else ''} | {psnr(x):.2f} | {ssim(x):.4f} | {seconds:.2f} | {f'{searched:.1f}' if searched else ''} |")

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(16, 7.2), layout="constrained")
axes = fig.subplots(2, len(found) + 1)
peak = float(reference.max())
axes[0, 0].imshow(reference, cmap="gray", vmin=0, vmax=0.8 * peak)
axes[0, 0].set_title("all samples, coils combined", fontsize=9)
axes[1, 0].imshow(mask, cmap="gray_r", vmin=0, vmax=1)
axes[1, 0].set_title(f"k-space, 1/{arguments.acceleration:g} of the samples", fontsize=9)
for ax, below, (name, (x, chosen, *_)) in zip(axes[0, 1:], axes[1, 1:], found.items()):
    shown = ax.imshow(x.abs(), cmap="gray", vmin=0, vmax=0.8 * peak)
    ax.set_title(f"{name}\n{psnr(x):.2f} dB, SSIM {ssim(x):.3f}", fontsize=9)
    error = below.imshow((x.abs() - reference).abs() / peak, cmap="gray", vmin=0, vmax=0.1)
    below.set_title(chosen, fontsize=9)
fig.colorbar(shown, ax=axes[0, -1], label="magnitude (|A* y| at most 1)")
fig.colorbar(error, ax=axes[1, -1], label="|error| over the reference's peak")
for ax in axes.ravel():
    ax.set_xticks([]), ax.set_yticks([])
fig.suptitle(f"{source}, {len(full)} coils, R = {arguments.acceleration:g}", fontsize=11)
fig.savefig(output / "mri_cartesian_tv.png", dpi=120)
print(f"\nfigure: {output / 'mri_cartesian_tv.png'}")
