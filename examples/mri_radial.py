"""Radial MRI: gridding, conjugate gradients and total variation: `python examples/mri_radial.py [--spokes N] [--noise S] [--output DIR] [--quick]`.

    A = pl.MRI(coil_maps=maps, trajectory=trajectory)            # the NUFFT (extra `nufft`); radians per pixel, or 1/m with field_of_view in m
    w = pl.density_compensation(trajectory, shape)
    gridded = A.adjoint(w * kspace)

A real slice is measured by eight coils along a scanner's real trajectory (PARALIFT_DATA/mri_kspace, 96 diameters of 512 samples for 256 x 256 pixels, a quarter of what
Nyquist asks at the rim) or, with --spokes, along golden angles; the k-space is simulated, with complex noise. The maps are ESPIRiT's, from the gridded coil images:
radial data have their calibration in their middle. Then

* gridding: A* W y, W the density compensation: one product, streaks;
* conjugate gradients on A*A x = A*y, by the Toeplitz operator (FFTs of the image's size) and, for its time, by A and A*; with the weights W they need fewer iterations;
* total variation by FISTA, its weight by the discrepancy principle from the noise.

The simulation uses the same NUFFT and other maps than the reconstruction. PSNR and SSIM are of the magnitude; images are in [0, 1]. Without data, and with --quick, a phantom.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

import paralift as pl
from paralift.files import located

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--spokes", type=int, default=None, help="golden-angle diameters instead of the scanner's trajectory")
parser.add_argument("--noise", type=float, default=0.02, help="standard deviation of a complex sample, in the image's unit")
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="a small phantom")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)

try:
    slice_ = None if arguments.quick else pl.data.mri_slices("brain")[0]
    source = "phantom" if slice_ is None else "brain"
except FileNotFoundError:
    slice_, source = None, "phantom"
n = 64 if arguments.quick else 256
image, true_maps, _ = pl.data.phantom((n, n))
if slice_ is not None:
    image = torch.polar(slice_, image.angle())

# ---- the trajectory, in radians per pixel: column 0 is the image's vertical axis
try:
    if arguments.quick or arguments.spokes:
        raise FileNotFoundError
    cycles = torch.from_numpy(np.load(located("mri_kspace", "projection_coord.npy", "pl.radial_trajectory")))        # periods per field of view, -128 to 128
    trajectory, kind = cycles * (2 * math.pi / 256), "the scanner's trajectory"
except FileNotFoundError:
    trajectory, kind = pl.radial_trajectory(arguments.spokes or 3 * n // 8, 2 * n), "golden angles"
spokes, readout = trajectory.shape[:2]

true = pl.MRI(coil_maps=true_maps, trajectory=trajectory)
kspace = true(image)
kspace = kspace + arguments.noise * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)

# ---- weights of the samples, gridded coil images, maps
began = time.perf_counter()
w = pl.density_compensation(trajectory, (n, n)).float()
weighing = time.perf_counter() - began
coils = pl.NUFFT(trajectory, (n, n)).adjoint(w * kspace)
grid = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(coils, dim=(-2, -1)), dim=(-2, -1), norm="ortho"), dim=(-2, -1))
began = time.perf_counter()
maps = pl.espirit(grid, calibration=16 if arguments.quick else 32, crop=0.5)
print(f"{source} {n} x {n}, {len(maps)} coils, {kind}: {spokes} spokes of {readout} samples, noise {arguments.noise:g}\n"
      f"density compensation {weighing:.2f} s, ESPIRiT {time.perf_counter() - began:.2f} s")
A = pl.MRI(coil_maps=maps, trajectory=trajectory)
B = pl.MRI(w.sqrt(), coil_maps=maps, trajectory=trajectory)             # rows times sqrt(w): better conditioned, noise no longer white

# ---- images
found, iterations = {}, (15, 6)
A.adjoint(kspace)                                                           # plans are made once
began = time.perf_counter()
found["gridding"] = (A.adjoint(w * kspace), "", time.perf_counter() - began)
plain, weighted = pl.Reconstruction(A, kspace), pl.Reconstruction(B, w.sqrt() * kspace)
A.normal(image), B.normal(image)                                            # Toeplitz kernels are made once


class Slow(pl.LinearOperator):
    """A without its Toeplitz operator: A*A takes a NUFFT there and one back."""

    def __init__(self):
        super().__init__(A.domain, A.range)
        self._call, self._adjoint = A._call, A._adjoint


for name, problem, count in (("conjugate gradients", plain, iterations[0]), ("the same, A and A* by NUFFT", pl.Reconstruction(Slow(), kspace), iterations[0]),
                             ("conjugate gradients, weights", weighted, iterations[1])):
    result = pl.ConjugateGradient(count).solve(problem, progress=False, record_every=count)
    found[name] = (result.solution, f"{count} iterations", result.seconds)
solver = pl.FISTA(20 if arguments.quick else 30)
problem = pl.Reconstruction(A, kspace, regulariser=pl.TotalVariation(tolerance=1e-4))
began = time.perf_counter()
weight, _, table = pl.discrepancy_weight(problem, arguments.noise, solver, start=4 * arguments.noise, tolerance=0.02)
searched = time.perf_counter() - began
result = solver.solve(problem.reweighted(weight), progress=False, record_every=solver.max_iterations)
found["total variation"] = (result.solution, f"weight {weight:.2g}", result.seconds)

support, truth = maps.abs().sum(0) > 0, image.abs()
found = {name: (x.abs() * support, *rest) for name, (x, *rest) in found.items()}
psnr = lambda x: float(pl.metrics.psnr(x, truth, peak=1.0))
print(f"weight of total variation: {len(table['weight'])} tried in {searched:.1f} s\n\n| | | PSNR (dB) | SSIM | seconds |\n|---|---|---|---|---|")
for name, (x, chosen, seconds) in found.items():
    print(f"| {name} | {chosen} | {psnr(x):.2f} | {float(pl.metrics.ssim(x, truth)):.4f} | {seconds:.2f} |")

from matplotlib.figure import Figure  # noqa: E402

shown_names = [name for name in found if "NUFFT" not in name]
fig = Figure(figsize=(15, 6.6), layout="constrained")
axes = fig.subplots(2, len(shown_names) + 1)
axes[0, 0].imshow(truth, cmap="gray", vmin=0, vmax=0.8)
axes[0, 0].set_title("true image", fontsize=9)
axes[1, 0].plot(trajectory[:, [0, -1], 1].T, trajectory[:, [0, -1], 0].T, color="black", linewidth=0.3)
axes[1, 0].set(xlabel="rad/pixel", ylabel="rad/pixel", aspect="equal")
axes[1, 0].set_title(f"{spokes} spokes, {kind}", fontsize=9)
for ax, below, name in zip(axes[0, 1:], axes[1, 1:], shown_names):
    x, chosen, _ = found[name]
    shown = ax.imshow(x, cmap="gray", vmin=0, vmax=0.8)
    ax.set_title(f"{name}\n{psnr(x):.2f} dB", fontsize=9)
    error = below.imshow((x - truth).abs(), cmap="gray", vmin=0, vmax=0.1)
    below.set_title(chosen, fontsize=9)
fig.colorbar(shown, ax=axes[0, -1], label="magnitude, image in [0, 1]")
fig.colorbar(error, ax=axes[1, -1], label="|error|, image in [0, 1]")
for ax in [*axes[0], *axes[1, 1:]]:
    ax.set_xticks([]), ax.set_yticks([])
fig.savefig(output / "mri_radial.png", dpi=120)
print(f"\nfigure: {output / 'mri_radial.png'}")
