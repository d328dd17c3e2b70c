"""A denoiser trained by lifting as the prior of an MR reconstruction: `python examples/mri_learned_prior.py [--passes N] [--acceleration R] [--output DIR] [--quick]`.

A ProximalNetwork (the dual forward-backward steps of |x - z|^2/2 + t |L x|_1, unrolled, with filters of their own) is trained by lifting, ISGM with one sweep a minibatch, to
take Gaussian noise off patches of MR slices. It knows nothing of coils and masks. As a prior it takes the place of a prox (plug and play):

    prior = pl.PlugAndPlay(denoiser.eval())
    pl.FISTA(30, step="lipschitz").solve(pl.Reconstruction(A, kspace, regulariser=prior))

and so in PDHG and ADMM, which ask for a convex prior and take `convex=True` as the user's word; ADMM takes the prior as a linear term, prior @ IdentityOperator, PDHG the data
term, f @ A, with steps that stay, as the denoiser does not follow them. It is trained at two noise levels, and each method takes the one that suits it on a training slice,
beside total variation with the best of four weights on the same slice. Real and imaginary parts are denoised as two images.

Slices come from PARALIFT_DATA/mri_images (chest: 60 to train, 3 others to test), measured with four simulated coils, a smooth phase, complex noise and a variable-density
mask; without them, and with --quick, phantoms take their place. PSNR (peak 1) and SSIM of the magnitude.
"""

import argparse
import time
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--passes", type=int, default=2)
parser.add_argument("--patches", type=int, default=800, help="of 40 x 40 pixels")
parser.add_argument("--acceleration", type=float, default=4.0)
parser.add_argument("--noise", type=float, default=0.02, help="standard deviation of a complex sample; images are in [0, 1]")
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="few small phantoms")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)
torch.manual_seed(0)


class Phantoms:
    """Shepp and Logan's head, scaled and turned."""

    def __getitem__(self, i):
        image = pl.data.phantom((48, 48), coils=1)[0].abs()
        return (0.6 + 0.05 * (i % 8)) * torch.rot90(image, i % 4).roll((i % 5 - 2, i % 3 - 1), (0, 1))

    def __len__(self):
        return 14


try:
    slices = Phantoms() if arguments.quick else pl.data.mri_slices("chest")
except FileNotFoundError:
    slices = Phantoms()
quick = isinstance(slices, Phantoms)
shape, train = tuple(slices[0].shape), len(slices) * 6 // 7
side, count, passes = (16, 60, 2) if quick else (40, arguments.patches, arguments.passes)
generator = torch.Generator().manual_seed(0)
y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")


def image(i):
    """A slice with a smooth phase."""
    c = torch.randn(3, generator=torch.Generator().manual_seed(i))
    return torch.polar(slices[i], 0.7 * (c[0] * x + c[1] * y + c[2] * x * y))


# ---- denoisers, one a noise level, from real parts of patches
patches = []
for _ in range(count):
    i, (top, left) = int(torch.randint(train, (), generator=generator)), (int(torch.randint(n - side + 1, (), generator=generator)) for n in shape)
    patches.append(image(i)[top:top + side, left:left + side].real)
patches = torch.stack(patches).unsqueeze(1)
levels, denoisers, began = (0.02,) if quick else (0.01, 0.02), {}, time.perf_counter()
for level in levels:
    network = pl.networks.ProximalNetwork(filters=12 if quick else 16, steps=4 if quick else 5, kernel=5, threshold=0.5 * level)
    noisy = patches + level * torch.randn(patches.shape, generator=generator)
    problem = pl.LiftedTraining(network, noisy, patches, loss="squared_error", penalty="bregman", rho=200.0)
    denoisers[level] = pl.ISGM(passes, batch_size=8, step=3e-3, schedule="linear", seed=0).solve(problem, progress=False).network.eval()
    with torch.no_grad():
        gain = 10 * float(((noisy - patches).square().mean() / (denoisers[level](noisy) - patches).square().mean()).log10())
    print(f"denoiser for the noise level {level:g}: {gain:.2f} dB gained on its patches, {time.perf_counter() - began:.0f} s", flush=True)
trained = time.perf_counter() - began

# ---- measured slices
maps = pl.data.phantom(shape, coils=4)[1]
A = pl.MRI(pl.variable_density_mask(shape, arguments.acceleration, calibration=shape[0] // 10, seed=0), coil_maps=maps)


def measured(i):
    e = torch.randn(A.range.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1000 + i))
    return A(image(i)) + A.weights.abs() * arguments.noise * e


def solved(solver, data, regulariser):
    problem = pl.Reconstruction(A, data, regulariser=regulariser)
    fit = 0.5 * pl.L2NormSquared().translated(data) @ A
    if isinstance(solver, pl.ADMM):                                                 # wants a term H(K x)
        problem = pl.Composite(fit, linear=regulariser @ pl.IdentityOperator(A.domain))
    elif isinstance(solver, pl.PDHG):                                               # the data term dual
        problem = pl.Composite(nonsmooth=regulariser, linear=fit)
    result = solver.solve(problem, progress=False, record_every=solver.max_iterations)
    return result.x["x"], result.seconds


psnr = lambda u, i: float(pl.metrics.psnr(u.abs(), image(i).abs(), peak=1.0))
methods = {"FISTA": pl.FISTA(20, step="lipschitz", restart=None), "PDHG": pl.PDHG(30, variant="constant", relaxation=1.0), "ADMM": pl.ADMM(15)}
prior = lambda level: pl.PlugAndPlay(denoisers[level], convex=True)
tune = train - 1
data = measured(tune)
best = {}
for name, solver in methods.items():
    scores = {level: psnr(solved(solver, data, prior(level))[0], tune) for level in levels}
    best[name] = max(scores, key=scores.get)
scores = {w: psnr(solved(pl.FISTA(40), data, w * pl.TotalVariation(tolerance=1e-4))[0], tune) for w in (2e-3, 4e-3, 8e-3, 1.6e-2)}
weight = max(scores, key=scores.get)

tests = list(range(train, min(train + (2 if quick else 3), len(slices))))
columns = {"zero filled": lambda b: (A.adjoint(b), 0.0), f"total variation, weight {weight:g}": lambda b: solved(pl.FISTA(40), b, weight * pl.TotalVariation(tolerance=1e-4))}
for name, solver in methods.items():
    columns[f"learned prior, {name}, level {best[name]:g}"] = lambda b, solver=solver, name=name: solved(solver, b, prior(best[name]))
found = {name: [run(measured(i)) for i in tests] for name, run in columns.items()}
print(f"\n{len(tests)} test slices {shape}, acceleration {arguments.acceleration:g}, noise {arguments.noise:g}; training {trained:.0f} s for two levels\n\n"
      "| | mean PSNR (dB) | worst | mean SSIM | seconds a slice |\n|---|---|---|---|---|")
for name, images in found.items():
    values = [psnr(u, i) for (u, _), i in zip(images, tests)]
    ssim = sum(float(pl.metrics.ssim(u.abs(), image(i).abs(), peak=1.0)) for (u, _), i in zip(images, tests)) / len(tests)
    seconds = sum(s for _, s in images) / len(tests)
    print(f"| {name} | {sum(values) / len(values):.2f} | {min(values):.2f} | {ssim:.4f} | {f'{seconds:.2f}' if seconds else ''} |")

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(16, 6.4), layout="constrained")
axes = fig.subplots(2, 1 + len(found))
truth = image(tests[0]).abs()
axes[0, 0].imshow(truth, cmap="gray", vmin=0, vmax=0.8)
axes[0, 0].set_title("true image", fontsize=9)
last = denoisers[best["FISTA"]].filters[-1][:, 0].detach()
grid = torch.nn.functional.pad(last[:12], (1, 1, 1, 1), value=float("nan")).reshape(3, 4, 7, 7).permute(0, 2, 1, 3).reshape(21, 28)
fig.colorbar(axes[1, 0].imshow(grid, cmap="gray"), ax=axes[1, 0], location="bottom", shrink=0.8, label="entry of a filter")
axes[1, 0].set_title("12 filters of the last layer", fontsize=9)
for ax, below, (name, images) in zip(axes[0, 1:], axes[1, 1:], found.items()):
    u = images[0][0].abs()
    shown = ax.imshow(u, cmap="gray", vmin=0, vmax=0.8)
    ax.set_title(f"{name.replace(', level', chr(10) + 'level').replace(', weight', chr(10) + 'weight')}: {psnr(u, tests[0]):.2f} dB", fontsize=9)
    error = below.imshow((u - truth).abs(), cmap="gray", vmin=0, vmax=0.1)
fig.colorbar(shown, ax=axes[0, -1], label="magnitude, image in [0, 1]")
fig.colorbar(error, ax=axes[1, -1], label="|error|, image in [0, 1]")
for ax in axes.ravel():
    ax.set_xticks([]), ax.set_yticks([])
fig.savefig(output / "mri_learned_prior.png", dpi=120, bbox_inches="tight")
print(f"\nfigure: {output / 'mri_learned_prior.png'}")
