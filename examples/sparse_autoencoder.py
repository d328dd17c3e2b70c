"""Sparse autoencoder: `python examples/sparse_autoencoder.py [--samples 10000] [--noise 0.3] [--data digits] [--quick] [--output DIR]`.

Wang & Benning (JMLR 24(232), 2023) train 784-784-784-784-784-784 on centred Fashion-MNIST: ReLU in layers 1, 2, 4, a soft threshold in layer 3, whose
output is the code, the identity in layer 5, and alpha |x_3|_1 in the objective. x_3 is an unknown, so this term meets the prox of layer 3 in closed
form and leaves exact zeros: no subgradient. `--noise S` trains the same network to take Gaussian noise of standard deviation S away (grey values are 0 to 1),
on five noisy copies of every image and with a fifth of the passes.

ISGM takes one explicit sweep a minibatch, with rho = 10. With the equal weights rho = 1 of the paper this sweep fails (the loss passes 1000): it is sure to descend
only where rho_l >= rho_{l+1} |A_{l+1}|^2, and |A|^2 is about 8 at the start. The implicit step (sweeps=3, metric="plain", step=1.0) trains at rho = 1 too, but for
the same minibatch it takes six times as long, and it was behind after as many passes.
Fashion-MNIST is read from PARALIFT_DATA or the cache, or fetched; `--data digits` takes scikit-learn's digits and 64 units a layer.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import paralift as pl

parser = argparse.ArgumentParser()
parser.add_argument("--samples", type=int, default=1000, help="train on the first so many images")
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--alpha", type=float, default=0.2, help="weight of |x_3|_1")
parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the noise on the inputs")
parser.add_argument("--data", choices=["fashion_mnist", "digits"], default="fashion_mnist")
parser.add_argument("--quick", action="store_true", help="twenty epochs on the digits")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
if arguments.quick:
    arguments.data, arguments.epochs = "digits", 20
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
name = "denoising_autoencoder" if arguments.noise else "sparse_autoencoder"

torch.manual_seed(0)
(train, _), (test, labels) = getattr(pl.data, arguments.data)()
train, test, labels = train[:arguments.samples], test[:1000], labels[:1000]
mean, width = train.mean(0), train.shape[1]
side = round(width**0.5)
copies = 5 if arguments.noise else 1
clean = {"training": (train - mean).repeat(copies, 1), "test": test - mean}
given = {kind: x + arguments.noise * torch.randn_like(x) for kind, x in clean.items()}

network = pl.networks.chain(pl.affine(width, width), pl.ReLU(), pl.affine(width, width), pl.ReLU(), pl.affine(width, width), pl.SoftThreshold(0.3),
                            pl.affine(width, width), pl.ReLU(), pl.affine(width, width))
for layer in network[::2]:
    torch.nn.init.kaiming_normal_(layer.weight)             # keeps the size of x through the layers: the threshold of a small code would give zeros alone
    torch.nn.init.zeros_(layer.bias)
problem = pl.LiftedTraining(network, given["training"], clean["training"], loss="squared_error", penalty="bregman", rho=10.0,
                            activation_regulariser={3: arguments.alpha * pl.L1Norm()})
print(problem)
curves = {(quantity, kind): [] for quantity in ("psnr", "zeros") for kind in clean}


def psnr(images, reference):
    """Peak signal-to-noise ratio in dB for the peak 1, the mean over the images."""
    return float((-10 * (images - reference).square().mean(1).log10()).mean())


def run(network, kind):
    """Codes and outputs of the first 1000 images."""
    with torch.no_grad():
        code = network[:6](given[kind][:1000])
        return code, network[6:](code)


def watch(result):
    network = problem.finish(result.x)
    for kind in clean:
        code, images = run(network, kind)
        curves["psnr", kind].append(psnr(images, clean[kind][:1000]))
        curves["zeros", kind].append(100 * float((code == 0).double().mean()))


result = pl.ISGM(-(-arguments.epochs // copies), batch_size=20, step=5e-4, schedule="linear", seed=0).solve(problem, callback=watch)
print(result)

rows = {}
for kind in clean:
    code, images = run(result.network, kind)
    quality, zeros, before = curves["psnr", kind][-1], curves["zeros", kind][-1], psnr(given[kind], clean[kind])
    print(f"{kind} images: PSNR {quality:.2f} dB{f' (noisy: {before:.2f} dB)' if arguments.noise else ''}, zeros in the code {zeros:.1f} %")
    rows[f"{kind}\nimages"] = clean[kind][:12] + mean
    if arguments.noise:
        rows[f"{kind}, noisy\n{before:.1f} dB"] = given[kind][:12] + mean
    rows[f"{kind}, {'denoised' if arguments.noise else 'decoded'}\n{quality:.1f} dB"] = images[:12] + mean
task = f"denoising autoencoder, noise {arguments.noise:g}" if arguments.noise else "sparse autoencoder"
pl.plotting.plot_images({label: images.view(-1, side, side) for label, images in rows.items()}, output / f"{name}_images.png",
                        title=f"{task}, {len(train)} training images ({arguments.data.replace('_', '-')}), {zeros:.0f} % zeros in the code (mean PSNR)")

fig = Figure(figsize=(12, 3.6), layout="constrained")
axes = fig.subplots(1, 3)
passes = result.history["data_passes"]
axes[0].plot(passes, result.history["objective"], "k-")
axes[0].set(title="objective, mean over the pass", xlabel="passes over the data", ylim=(0, None))
for ax, quantity, title in ((axes[1], "psnr", "PSNR (dB)"), (axes[2], "zeros", "zeros in the code (%)")):
    for kind, style in (("training", "k-"), ("test", "k--")):
        values = curves[quantity, kind]
        ax.plot(passes, values, style, label=f"{kind} images: {values[-1]:.1f}")
    ax.set(title=title, xlabel="passes over the data")
    ax.legend()
for ax in axes:
    ax.grid(alpha=0.3), ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
fig.savefig(output / f"{name}_convergence.png", dpi=120)

fig = Figure(figsize=(12, 3.8), layout="constrained")
left, middle, right = fig.subplots(1, 3, width_ratios=(1, 1, 1.5))
share = 100 * (code == 0).double().mean(1)
left.hist(share, bins=30, color="0.5")
left.axvline(share.mean(), color="black", linestyle="--", label=f"mean {share.mean():.1f} %")
left.set(title="sparsity of the codes", xlabel="zeros in an image's code (%)", ylabel="test images")
left.legend()
middle.hist(code[code != 0], bins=60, color="0.5")
middle.set(title=f"the nonzero {100 - share.mean():.1f} %", xlabel="value of a nonzero entry of $x_3$", ylabel="entries", yscale="log")
units, classes = code.abs().mean(0).argsort(descending=True), labels[:200].sort(stable=True)
magnitude = code[classes.indices].abs()[:, units[:200]]
shown = right.imshow(magnitude, cmap="gray_r", aspect="auto", vmin=0, vmax=magnitude.quantile(0.99), interpolation="nearest")
ends = classes.values.bincount(minlength=10).cumsum(0)
right.hlines(ends[:-1] - 0.5, -0.5, magnitude.shape[1] - 0.5, color="0.6", linewidth=0.5)
right.set_yticks(ends - classes.values.bincount(minlength=10) / 2, range(10))
right.set(title="codes of 200 test images", xlabel=f"units, the {magnitude.shape[1]} most used of {width}", ylabel="images by class")
fig.colorbar(shown, ax=right, label="$|x_3|$", extend="max")
fig.savefig(output / f"{name}_code.png", dpi=120)

with torch.no_grad():                                       # what the most used units draw: the decoder's answer to one of them alone
    zero, size = torch.zeros(1, width), code[code != 0].abs().mean()
    drawn = result.network[6:](zero + size * torch.eye(width)[units[:24]]) - result.network[6:](zero)
drawn = (drawn / drawn.abs().amax(1, keepdim=True)).view(-1, side, side)
pl.plotting.plot_images({"units\n1 to 12": drawn[:12], "units\n13 to 24": drawn[12:]}, output / f"{name}_units.png", limits=(-1, 1),
                        title="what the most used units of the code draw, each scaled to its largest value (grey: nothing, black: ink, white: takes ink away)")
print(f"figures: {output}/{name}_*.png")
