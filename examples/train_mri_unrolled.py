"""Learned MRI reconstruction, lifted and by back-propagation: `python examples/train_mri_unrolled.py [--passes N] [--workers N] [--acceleration R] [--output DIR] [--quick]`.

An unrolled primal-dual network (pl.networks.UnrolledNetwork) has the measurement operator pl.MRI inside its stages: masks, coil maps and Fourier transforms are part of the
lifted layers, and only the filters are learned. Its one activation, the clip, is a proximal map. Slices are read from disk one after the other, measured (four coils, complex
noise, a variable-density mask) and written to memory-mapped files, from which minibatches are drawn: what is in memory does not grow with the number of slices. The lifted run
is ISGM with one sweep a minibatch in Adam's metric, back-propagation is torch's Adam; both have the same start, the same order of the minibatches, a step that falls linearly,
and take turns, so that a busy machine slows both. Total variation (FISTA, the best of four weights on a training slice) stands beside them on test slices that no network saw.

One sweep with a large rho nearly is back-propagation's step: the aim is to lose nothing at equal time, with layers and samples that several workers may share (--workers).
Slices come from PARALIFT_DATA/mri_images (70 of the chest, 60 to train, 10 to test); without it, and with --quick, phantoms take their place.
"""

import argparse
import copy
import resource
import time
from pathlib import Path

import numpy as np
import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--passes", type=int, default=8)
parser.add_argument("--acceleration", type=float, default=4.0)
parser.add_argument("--step", type=float, default=3e-3)
parser.add_argument("--rho", type=float, default=100.0)
parser.add_argument("--noise", type=float, default=0.01, help="standard deviation of the complex noise; images are in [0, 1]")
parser.add_argument("--workers", type=int, default=None)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="few small phantoms and passes")
arguments = parser.parse_args()
output, batch = Path(arguments.output), 2
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)
torch.manual_seed(0)


class Phantoms:
    """Shepp and Logan's head, scaled and turned."""

    def __getitem__(self, i):
        image = pl.data.phantom((32, 32), coils=1)[0].abs()
        return (0.6 + 0.05 * (i % 8)) * torch.rot90(image, i % 4).roll((i % 5 - 2, i % 3 - 1), (0, 1))

    def __len__(self):
        return 16


try:
    slices = Phantoms() if arguments.quick else pl.data.mri_slices("chest")
except FileNotFoundError:
    slices = Phantoms()
shape, train = tuple(slices[0].shape), len(slices) * 6 // 7
passes, steps, filters = (2, 2, 6) if isinstance(slices, Phantoms) else (arguments.passes, 5, 16)
maps = pl.data.phantom(shape, coils=4)[1]
mask = pl.variable_density_mask(shape, arguments.acceleration, calibration=shape[0] // 10, seed=0)
A = pl.MRI(mask=mask, coil_maps=maps)

# ---- measured slices, on disk: A* y and the image, complex64
files = [np.lib.format.open_memmap(output / f"unrolled_{name}.npy", "w+", np.complex64, (len(slices), *shape)) for name in ("measured", "images")]
generator, (y, x) = torch.Generator().manual_seed(0), torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
for i in range(len(slices)):
    c = torch.randn(4, generator=generator)
    image = slices[i] * torch.exp(0.7j * (c[0] * x + c[1] * y + c[2] * x * y + c[3] * x * x))
    noise = arguments.noise * torch.randn(A.range.shape, dtype=torch.complex64, generator=generator)
    files[0][i], files[1][i] = A.adjoint(A(image) + mask * noise).numpy(), image.numpy()
measured, images = (torch.from_numpy(np.load(file.filename, mmap_mode="r+")) for file in files)
del files
test = slice(train, len(slices))


def psnr(found):
    """dB, of the magnitude, image by image; the peak is 1."""
    return pl.metrics.psnr(found.abs(), images[test].abs(), peak=1.0)


def reconstructed(network):
    with torch.no_grad():
        return torch.cat([network(z) for z in measured[test].split(batch)])


class BackPropagation:
    """torch's Adam on |network(z) - x|^2 / 2, for a number of seconds at a time; the order of the samples is that of ISGM."""

    def __init__(self, network):
        self.network, self.batches, self.seconds = copy.deepcopy(network), 0, 0.0
        self.optimizer = torch.optim.Adam(self.network.parameters(), fused=True)

    def turn(self, seconds):
        began, spent, many = time.perf_counter(), 0.0, train // batch
        while spent < seconds and self.batches < passes * many:
            epoch, k = divmod(self.batches, many)
            if k == 0:
                self.order = torch.randperm(train, generator=torch.Generator().manual_seed(epoch))
            rows = self.order[k * batch:(k + 1) * batch]
            self.optimizer.param_groups[0]["lr"] = arguments.step * max(0.02, 1 - self.batches / (passes * many))
            self.optimizer.zero_grad(set_to_none=True)
            (0.5 * (self.network(measured[rows]) - images[rows]).abs().square().sum() / len(rows)).backward()
            self.optimizer.step()
            self.batches, spent = self.batches + 1, time.perf_counter() - began
        self.seconds += spent


network = pl.networks.UnrolledNetwork(A, steps, filters, threshold=0.02)
problem = pl.LiftedTraining(network, measured[:train], images[:train], loss="squared_error", rho=arguments.rho)
print(problem)
other, curves, clock = BackPropagation(network), {"lifted": [], "back-propagation": []}, {"began": time.perf_counter(), "lifted": 0.0}


def take_turns(result):
    turn = time.perf_counter() - clock["began"]
    clock["lifted"] += turn
    if pl.distributed.rank() == 0:
        other.turn(float("inf") if result.iterations == passes else turn)
    for name, net, used in (("lifted", problem.finish(result.x), clock["lifted"]), ("back-propagation", other.network, other.seconds)):
        curves[name].append((used, float(psnr(reconstructed(net)).mean())))
    clock["began"] = time.perf_counter()


solver = pl.ISGM(passes, batch_size=batch, step=arguments.step, schedule="linear", seed=0)
lifted = solver.solve(problem, callback=take_turns if arguments.workers is None else None, workers=arguments.workers).network
if arguments.workers is not None:                        # back-propagation runs on one: the times are not compared
    other.turn(float("inf"))

# ---- total variation, with a weight found on one training slice
kspace = lambda i: A(images[i]) + mask * arguments.noise * torch.randn(A.range.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(i))
solve = lambda i, weight: pl.FISTA(60).solve(pl.Reconstruction(A, kspace(i), regulariser=weight * pl.TotalVariation(tolerance=1e-4)), progress=False).solution
weight = min((1e-3, 2e-3, 4e-3, 8e-3), key=lambda w: float((solve(0, w) - images[0]).abs().square().sum()))
found = {"adjoint": measured[test], f"total variation, weight {weight:g}": torch.stack([solve(i, weight) for i in range(train, len(slices))]),
         "back-propagation": reconstructed(other.network), "lifted": reconstructed(lifted)}
print(f"\n{len(slices) - train} test slices {shape}, acceleration {arguments.acceleration:g}, noise {arguments.noise:g}; peak memory of this process "
      f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB\n\n| | mean PSNR (dB) | worst | mean SSIM | training (s) |\n|---|---|---|---|---|")
for name, u in found.items():
    seconds = {"lifted": clock["lifted"], "back-propagation": other.seconds}.get(name, 0.0)
    ssim = float(pl.metrics.ssim(u.abs(), images[test].abs()).mean())
    print(f"| {name} | {float(psnr(u).mean()):.2f} | {float(psnr(u).min()):.2f} | {ssim:.4f} | {f'{seconds:.0f}' if seconds else ''} |")

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(15, 6.4), layout="constrained")
axes = fig.subplots(2, len(found) + 1)
truth = images[test][0].abs()
for ax, below, (name, u) in zip(axes[0], axes[1], [("true image", images[test]), *found.items()]):
    drawn = ax.imshow(u[0].abs().clamp(0, 1), cmap="gray", vmin=0, vmax=1)
    ax.set_title(name if name == "true image" else f"{name}\n{float(psnr(u)[0]):.2f} dB", fontsize=9)
    if name == "true image":
        for (curve, points), style in zip(curves.items(), ("k-o", "k--s")):
            if points:
                below.plot(*zip(*points), style, markersize=3, label=curve)
        below.set(xlabel="seconds of training", ylabel="mean PSNR of the test slices (dB)")
        below.grid(alpha=0.3)
        if curves["lifted"]:
            below.legend(fontsize=7)
    else:
        shown = below.imshow((u[0].abs() - truth).abs(), cmap="gray", vmin=0, vmax=0.1)
    ax.axis("off")
    if name != "true image":
        below.axis("off")
fig.colorbar(drawn, ax=axes[0, -1], label="magnitude, image in [0, 1]")
fig.colorbar(shown, ax=axes[1, -1], label="|error|, image in [0, 1]")
fig.savefig(output / "train_mri_unrolled.png", dpi=120)
print(f"figure: {output / 'train_mri_unrolled.png'}")
