"""PET from Poisson counts: MLEM, OSEM, total variation to a certified gap, directional total variation: `python examples/pet_poisson_tv.py [--counts N] [--output DIR] [--quick]`.

    A = pl.PET(scanner, (128, 128), voxel_size=2.0, attenuation=mu, sensitivity=N, background=r, resolution=4.5)        # mm, 1/mm, counts
    problem = pl.Reconstruction(A, counts, "poisson", regulariser=0.5 * pl.TotalVariation())
    pl.PDHG(1500, tolerance=pl.Tolerance(gap=1e-3)).solve(problem)

The transaxial plane of the Siemens mMR (504 positions, gaps between its blocks, 252 x 344 lines), an FDG-like slice made from the ICBM 152 brain (PARALIFT_DATA/phantoms),
attenuation at 511 keV, a resolution of 4.5 mm, and randoms, which are uniform on the live lines and 30 % of the trues; counts are Poisson. Background and attenuation are known
here. The gap bounds the distance to the least objective, relative to the objective, so the image with total variation is proved to be near the minimiser. Directional total
variation spares the edges of the T1 image of the same head. How many iterations of MLEM and OSEM, and which weights, is chosen by PSNR on another slice than the one that is
shown. Without the data, and with --quick, a phantom takes their place; its activity without the hot spot serves as the other image.
"""

import argparse
import time
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--counts", type=float, default=6e5, help="expected trues of the slice")
parser.add_argument("--slice", type=int, default=4)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="a small phantom on a small ring")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

try:
    if arguments.quick:
        raise FileNotFoundError
    activity, mu, t1 = pl.data.fdg_slices()
    source, shown_slice, tuned = "FDG-like slice of the ICBM 152 brain", arguments.slice, (arguments.slice + 2) % len(activity)
    guide = torch.nn.functional.avg_pool2d(t1[None], 2)[0]                         # pixels of 2 mm
except FileNotFoundError:
    image, body = pl.data.emission_phantom((48, 48) if arguments.quick else (128, 128))
    activity, mu, source, shown_slice, tuned = torch.stack([image, torch.flip(image, (1,))]), torch.stack([body, body]), "phantom", 0, 1
    guide = activity.clamp(max=3) + (activity > 0)                                  # other contrasts, most of the edges
shape = tuple(activity.shape[1:])
voxel = 256 / shape[0]                                                              # mm
scanner = pl.CylindricalScanner(128, 334.7, 88, block=None) if arguments.quick else pl.CylindricalScanner.mmr(rings=1)
trues = arguments.counts / (20 if arguments.quick else 1)
live = torch.ones(scanner.shape) if scanner.live is None else scanner.live.float()


def scan(i):
    """The operator of slice i with its expected randoms, and the counts."""
    A = pl.PET(scanner, shape, voxel, attenuation=mu[i], resolution=4.5)
    efficiency = trues / float(A(activity[i]).sum())                                # counts per mm of activity
    A = pl.PET(scanner, shape, voxel, attenuation=mu[i], resolution=4.5, sensitivity=efficiency * torch.ones(scanner.shape), background=0.3 * trues * live / live.sum())
    return A, torch.poisson(A(activity[i]) + A.background, generator=torch.Generator().manual_seed(i))


def psnr(x, i=shown_slice):
    return float(pl.metrics.psnr(x, activity[i]))


def variation(name, i):
    return pl.TotalVariation() if name == "total variation" else pl.DirectionalTotalVariation(guide[i], eta=0.02)


# ---- on another slice: how long, how heavy
B, b = scan(tuned)
names, curves, weights = ("total variation", "directional total variation"), {}, {}
for name, solver in (("MLEM", pl.MLEM(20 if arguments.quick else 80)), ("OSEM", pl.OSEM(8, subsets=12))):
    curves[name] = []
    solver.solve(pl.Reconstruction(B, b, "poisson"), progress=False, callback=lambda result, curve=curves[name]: curve.append(psnr(result.x["x"], tuned)))
stop = {name: 1 + max(range(len(curve)), key=curve.__getitem__) for name, curve in curves.items()}
for name in names:
    image, tried = None, {}
    for weight in (0.8, 0.4) if arguments.quick else (3.2, 1.6, 0.8, 0.4, 0.2, 0.1):
        problem = pl.Reconstruction(B, b, "poisson", regulariser=weight * variation(name, tuned), start=image)
        image = pl.PDHG(60 if arguments.quick else 300).solve(problem, progress=False, record_every=300).solution
        tried[weight] = psnr(image, tuned)
    weights[name] = max(tried, key=tried.get)

# ---- the slice that is shown
A, counts = scan(shown_slice)
began = time.perf_counter()
A.adjoint(A(activity[shown_slice]))
pair = time.perf_counter() - began
found = {}
for name, solver in (("MLEM", pl.MLEM(stop["MLEM"])), ("OSEM, 12 subsets", pl.OSEM(stop["OSEM"], subsets=12))):
    result = solver.solve(pl.Reconstruction(A, counts, "poisson"), progress=False, record_every=solver.max_iterations)
    found[name] = (result, f"{result.iterations} iterations", "")
for name in names:
    problem = pl.Reconstruction(A, counts, "poisson", regulariser=weights[name] * variation(name, shown_slice))
    result = pl.PDHG(3000, tolerance=pl.Tolerance(gap=1e-2 if arguments.quick else 1e-3)).solve(problem, progress=False, record_every=50)
    found[name] = (result, f"weight {weights[name]:g}, {result.iterations} iterations", f"{result.history['gap'][-1]:.1e} ({result.status.name})")
truth = activity[shown_slice]
print(f"{source}, {shape} pixels of {voxel:g} mm; {scanner}: {int(live.sum())} live lines\n{int(counts.sum())} counts, {float(A.background.sum()):.0f} of them randoms; "
      f"A and A* together {1e3 * pair:.1f} ms\n\n| | | PSNR (dB) | SSIM | relative gap | seconds |\n|---|---|---|---|---|---|")
for name, (result, chosen, gap) in found.items():
    x = result.solution
    print(f"| {name} | {chosen} | {psnr(x):.2f} | {float(pl.metrics.ssim(x, truth)):.4f} | {gap} | {result.seconds:.2f} |")

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(16, 9.6), layout="constrained")
top, bottom = fig.subfigures(2, 1, height_ratios=(2, 1))
axes, peak = top.subplots(2, 1 + len(found)), float(truth.max())
axes[0, 0].imshow(truth, cmap="gray_r", vmin=0, vmax=peak)
axes[0, 0].set_title("true activity", fontsize=9)
sinogram = axes[1, 0].imshow(counts, cmap="gray_r", aspect="auto", vmin=0, vmax=float(counts.quantile(0.99) if counts.numel() < 2**24 else counts.max()))
axes[1, 0].set_title("sinogram: views down, bins across", fontsize=9)
top.colorbar(sinogram, ax=axes[1, 0], label="counts", location="bottom", shrink=0.8)
for ax, below, (name, (result, chosen, _)) in zip(axes[0, 1:], axes[1, 1:], found.items()):
    drawn = ax.imshow(result.solution, cmap="gray_r", vmin=0, vmax=peak)
    ax.set_title(f"{name}\n{psnr(result.solution):.2f} dB", fontsize=9)
    error = below.imshow((result.solution - truth).abs(), cmap="gray_r", vmin=0, vmax=0.5 * peak)
    below.set_title(chosen, fontsize=9)
top.colorbar(drawn, ax=axes[0, -1], label="activity (white matter: 1)")
top.colorbar(error, ax=axes[1, -1], label="|error|")
for ax in axes.ravel():
    ax.set_xticks([]), ax.set_yticks([])
left, middle, right = bottom.subplots(1, 3)
for (name, curve), style in zip(curves.items(), ("k-", "k--")):
    left.plot(range(1, 1 + len(curve)), curve, style, label=name)
left.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
left.set(xlabel="iterations", ylabel="PSNR (dB)"), left.set_title("another slice, without a regulariser", fontsize=9), left.legend(fontsize=8)
for name, style in zip(names, ("k-", "k--")):
    history = found[name][0].history
    middle.semilogy(history["iteration"], history["gap"], style, label=name)
middle.set(xlabel="iterations of PDHG", ylabel="gap over the objective"), middle.legend(fontsize=8)
row = shape[0] // 2
millimetres = voxel * (torch.arange(shape[1]) - (shape[1] - 1) / 2)
right.plot(millimetres, truth[row], color="0.7", linewidth=3, label="true")
for (name, (result, *_)), style in zip(list(found.items())[1:], ("k:", "k-", "k--")):
    right.plot(millimetres, result.solution[row], style, linewidth=1, label=name)
right.set(xlabel="x (mm)", ylabel="activity"), right.set_title("profile along the middle row", fontsize=9), right.legend(fontsize=8)
for ax in (left, middle, right):
    ax.grid(alpha=0.3)
fig.savefig(output / "pet_poisson_tv.png", dpi=120)
print(f"\nfigure: {output / 'pet_poisson_tv.png'}")
