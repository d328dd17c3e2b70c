"""A regulariser whose filters are learned so that training images have small source elements: `python examples/learned_regulariser.py [--output DIR] [--quick]`.

J(u) = |K u|_{2,1} with 8 filters, learned by lifting (BCD), the filters' squares summing to 4 as total variation's do. Printed, on images not trained on, beside total
variation: the norm of a certified source element (of J itself, and for a quarter of k-space, with the distance of K* v to dJ(u) that the certificate proves), J of the image
over J of white noise of the same size, and the PSNR of denoised images and of `Reconstruction`s from noisy k-space, each regulariser with its best of a few weights.
Training and test images: chest slices of mri_images in PARALIFT_DATA (with h5py), or scikit-image's, which `--quick` takes too.
"""

import argparse
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="4 crops of 32 x 32, 40 sweeps")
parser.add_argument("--sweeps", type=int, default=50)
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)
torch.manual_seed(0)

side, count, sweeps = (32, 4, 40) if arguments.quick else (64, 20, arguments.sweeps)
try:
    slices, source = None if arguments.quick else pl.data.mri_slices("chest"), "chest slices"
except FileNotFoundError:
    slices = None
if slices is not None:
    centre = slice(128 - side // 2, 128 + side // 2)
    images = torch.stack([slices[i][centre, centre] for i in range(count + 8)]).double()
else:
    from skimage import data

    pictures, source = [torch.tensor(getattr(data, name)() / 255.0) for name in ("coins", "moon", "camera", "brick")], "scikit-image"
    corners = ((60, 40), (140, 100), (200, 220), (20, 260), (100, 300), (220, 120), (10, 10))
    images = torch.stack([p[i:i + side, j:j + side] for i, j in corners for p in pictures])
train, test = images[:count], images[count:count + 8]

problem = pl.LearnedRegulariser(train, filters=8, size=5, rho=30.0, smoothing=0.05)
print(problem, f"\n{source}: {len(train)} to train, {len(test)} to test, {side} x {side}\n")
result = pl.BCD(sweeps, inner_steps=3).solve(problem, progress=False)
filters, space = result.x["filters"], pl.Space((side, side), torch.float64)
print(f"mean |K* q| on the training images: {result.history['source_norm'][0]:.2f} at first, {result.history['source_norm'][-1]:.2f} after {result.iterations} sweeps "
      f"(Fenchel gap {result.history['gap'][0]:.3f} -> {result.history['gap'][-1]:.3f})\n")
start = pl.LearnedRegulariser.functional(problem.first, space)
regularisers = {"total variation": pl.TotalVariation(), "8 random filters": start, "8 learned filters": result.solution}

noise, sigma = torch.randn(test.shape, dtype=torch.float64), 0.05
noisy, steps, few = test + sigma * noise, 100 if arguments.quick else 200, 0.01
K = pl.FourierTransform(space, pl.variable_density_mask((side, side), acceleration=4, calibration=side // 8, seed=0))
kspace = K(test + few * torch.randn(test.shape, dtype=torch.float64))
psnr = lambda u: -10 * (u - test).square().mean((1, 2)).log10()
every = {"record_every": 100, "progress": False}


def best(solve, weights):
    """(mean PSNR, weight, images), the best of several weights."""
    return max(((float(psnr(u).mean()), w, u) for w, u in ((w, solve(w)) for w in weights)), key=lambda found: found[0])


print(f"noisy {float(psnr(noisy).mean()):.2f} dB; zero-filled, {100 * float(K.mask.double().mean()):.0f} % of k-space, {float(psnr(K.adjoint(kspace)).mean()):.2f} dB\n")
print("| regulariser | norm of v, mean | for a quarter of k-space; distance | J(image) / J(noise) | denoised, dB; weight | reconstructed, dB; weight |\n" + "|---" * 6 + "|")
first = int(test.std((1, 2)).argmax())                              # the image of most contrast is shown
shown = {"image": test[first], "zero-filled": K.adjoint(kspace)[first]}
for name, J in regularisers.items():
    found = [pl.FISTA(steps, tolerance=1e-8).solve(pl.SourceCondition(A, J, test), **every).solution for A in (pl.IdentityOperator(space), K)]
    denoised = best(lambda w: pl.PDHG(steps).solve(pl.Reconstruction(pl.IdentityOperator(space), noisy, regulariser=w * J), **every).solution, (0.02, 0.03, 0.05, 0.08))
    imaged = best(lambda w: pl.PDHG(steps).solve(pl.Reconstruction(K, kspace, regulariser=w * J), **every).solution, (1e-3, 2e-3, 4e-3, 8e-3))
    shown[f"{name}: {float(psnr(imaged[2])[first]):.2f} dB"] = imaged[2][first]
    v = sum(t.op.adjoint(q) for t, q in zip(J.split(space), found[0].subgradient))             # of J itself, K = 1: these q lie in dH, so v is in dJ(u)
    print(f"| {name} | {float(v.square().sum((1, 2)).sqrt().mean()):.2f} | {float(found[1].norm.mean()):.2f}; {float(found[1].distance.mean()):.2f} | "
          f"{float((J(test) / J(noise)).mean()):.4f} | {denoised[0]:.2f}; {denoised[1]:g} | {imaged[0]:.2f}; {imaged[1]:g} |", flush=True)

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(13, 6.6), layout="constrained")
upper, lower = fig.subfigures(2, 1)
for ax, (title, picture) in zip(upper.subplots(1, len(shown)), shown.items()):
    drawn = ax.imshow(picture, cmap="gray", vmin=float(test[first].min()), vmax=float(test[first].max()))
    ax.set_title(title, fontsize=9), ax.axis("off")
upper.colorbar(drawn, ax=upper.axes, label="intensity", shrink=0.7)
left, right = lower.subfigures(1, 2)
for ax, k in zip(left.subplots(2, 4).ravel(), filters):
    drawn = ax.imshow(k, cmap="gray", vmin=-float(filters.abs().max()), vmax=float(filters.abs().max()))
    ax.axis("off")
left.colorbar(drawn, ax=left.axes, label="entry of a filter", shrink=0.7)
left.suptitle("learned filters", fontsize=9)
ax = right.subplots()
ax.semilogy(result.history["iteration"], result.history["source_norm"], "k-", label="|K* q|, the norm sought small")
ax.semilogy(result.history["iteration"], result.history["gap"], "k--", label="Fenchel gap")
ax.yaxis.set_major_formatter("{x:g}"), ax.yaxis.set_minor_formatter("{x:g}")
ax.set(xlabel="sweeps", ylabel="mean over the training images", title="training"), ax.grid(alpha=0.3), ax.legend(fontsize=8)
fig.savefig(output / "learned_regulariser.png", dpi=120)
print(f"\nfigure: {output / 'learned_regulariser.png'}")
