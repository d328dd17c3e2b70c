"""A proximal network for denoising, lifted and by back-propagation: `python examples/proximal_denoiser.py [--passes N] [--rho R] [--output DIR] [--quick]`.

Wang, Benning & Repetti (MLSP 2024) unroll the dual forward-backward steps of min_x |x - z|^2/2 + t |L x|_1,

    u_{k+1} = clip(u_k - tau_k L_k (L_k* u_k - z), -t, t),      x = z - L* u,

with filters L_k of their own in every layer, and train them lifted: the Bregman penalty of the clip ties the layers. Here: patches 32 x 32 of the first 40 images of BSD68,
Gaussian noise of standard deviation 25/255, squared error. The lifted run is ISGM with one sweep a minibatch in Adam's metric; back-propagation is torch's Adam. Both have the
same start, the same order of the minibatches and a step that falls linearly. They take turns: after each pass of the lifted run, back-propagation goes on for as many processor
seconds, so that a busy machine slows both.

Paper and script differ: the paper trains by a block-coordinate forward-backward method over minibatches, and its figures could not be read, so there is none to compare with.
One sweep with a large rho nearly is back-propagation's step, so the aim is to lose nothing at equal time. Small rho lose: where a unit's clip has its edge within |g| / rho
of z, g the pull on it, the sweep takes another step than the gradient. In short trials 0.4 dB were lost at rho = 2 and 1.6 dB at 0.3, and at rho = 20 0.1 dB in a longer run.
BSD68 is read from PARALIFT_DATA/denoising/BSD68; without it, and with `--quick`, scikit-image's camera (test) and coins, moon, page (training) take its place.
"""

import argparse
import copy
import os
import time
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--passes", type=int, default=2, help="of the lifted run over the patches")
parser.add_argument("--step", type=float, default=3e-3)
parser.add_argument("--rho", type=float, default=200.0)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--patches", type=int, default=3000, help="of 32 x 32 pixels, drawn from the training images")
parser.add_argument("--seeds", type=int, default=2)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="a pass over few patches of scikit-image's images")
arguments = parser.parse_args()
passes, seeds, size, sigma, side = *((2, 1) if arguments.quick else (arguments.passes, arguments.seeds)), arguments.batch, 25 / 255, 32
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

folder = Path(os.environ.get("PARALIFT_DATA", "")) / "denoising" / "BSD68"
if not arguments.quick and folder.is_dir():
    from matplotlib.image import imread

    images = [torch.from_numpy(imread(file)) for file in sorted(folder.glob("*.png"))]
    images = [image if image.shape[0] < image.shape[1] else image.T for image in images]         # all 321 x 481
    train_images, test, source = images[:40], torch.stack(images[40:]).unsqueeze(1), "BSD68"
else:
    from skimage import data

    images = [torch.from_numpy(getattr(data, name)()).float() / 255 for name in ("coins", "moon", "page", "camera")]
    train_images, test, source = images[:3], images[3][None, None, 128:384, 128:384], "scikit-image"

few = test[:4]                                                       # the curves: evaluation takes longer than a turn on all


def noise(clean, seed):
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


def psnr(restored):
    """Peak signal-to-noise ratio in dB for the peak 1, image by image."""
    return -10 * (restored - test[:len(restored)]).square().mean((1, 2, 3)).log10()


def denoised(network, images):
    with torch.no_grad():
        return torch.cat([network(z) for z in images.split(1)])


class BackPropagation:
    """torch's Adam on |network(z) - x|^2 / 2, a turn at a time; the order of the samples is that of ISGM."""

    def __init__(self, network, noisy, patches, seed):
        self.network, self.noisy, self.patches, self.seed, self.batches, self.seconds = copy.deepcopy(network), noisy, patches, seed, 0, 0.0
        self.optimizer = torch.optim.Adam(self.network.parameters(), fused=True)

    def turn(self, seconds, done):
        """Train for so many processor seconds, from the step of the fraction `done` on."""
        began, spent, many = time.process_time(), 0.0, len(self.patches) // size
        while spent < seconds:
            epoch, k = divmod(self.batches, many)
            if k == 0:
                self.order = torch.randperm(len(self.patches), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch))
            rows = self.order[k * size:(k + 1) * size]
            self.optimizer.param_groups[0]["lr"] = arguments.step * max(0.02, 1 - done - spent / seconds / passes)
            self.optimizer.zero_grad(set_to_none=True)
            (0.5 * (self.network(self.noisy[rows]) - self.patches[rows]).square().sum() / len(rows)).backward()
            self.optimizer.step()
            self.batches, spent = self.batches + 1, time.process_time() - began
        self.seconds += spent


def train(seed):
    """(the lifted network, the other, their curves [(seconds, PSNR)]), both from the same start."""
    torch.manual_seed(seed)
    patches = cut[torch.randperm(len(cut))[:count]]
    network, noisy = pl.networks.ProximalNetwork(filters=24, steps=6, kernel=5, threshold=0.02), noise(patches, seed + 1)
    problem = pl.LiftedTraining(network, noisy, patches, loss="squared_error", penalty="bregman", rho=arguments.rho)
    other, curves = BackPropagation(network, noisy, patches, seed), {"lifted": [], "back-propagation": []}
    clock = {"began": time.process_time(), "lifted": 0.0}

    def take_turns(result):
        turn = time.process_time() - clock["began"]
        clock["lifted"] += turn
        other.turn(turn, (result.iterations - 1) / passes)
        for name, net, used in (("lifted", problem.finish(result.x), clock["lifted"]), ("back-propagation", other.network, other.seconds)):
            curves[name].append((used, float(psnr(denoised(net, noisy_test[:len(few)])).mean())))
        clock["began"] = time.process_time()

    solver = pl.ISGM(passes, batch_size=size, step=arguments.step, schedule="linear", seed=seed)
    lifted = solver.solve(problem, callback=take_turns, progress=False).network
    return lifted, other, curves


cut = torch.cat([image.unfold(0, side, side).unfold(1, side, side).reshape(-1, 1, side, side) for image in train_images])
count, noisy_test = min(len(cut), 100 if arguments.quick else arguments.patches), noise(test, 0)
print(f"{source}: {count} patches, {len(test)} test images, rho {arguments.rho:g}; mean PSNR (dB) on the test images, noisy {float(psnr(noisy_test).mean()):.2f}\n")
print("| seed | seconds each | back-propagation: passes | PSNR | lifted: passes | PSNR | lifted above, image by image |\n" + "|---" * 7 + "|")
totals = {"lifted": 0.0, "back-propagation": 0.0}
for seed in range(seeds):
    lifted, other, curves = train(seed)
    found = {"back-propagation": denoised(other.network, noisy_test), "lifted": denoised(lifted, noisy_test)}
    a, b = psnr(found["back-propagation"]), psnr(found["lifted"])
    totals = {name: total + float(psnr(found[name]).mean()) / seeds for name, total in totals.items()}
    print(f"| {seed} | {other.seconds:.1f} | {other.batches * size / count:.2f} | {float(a.mean()):.3f} | {passes:.2f} | {float(b.mean()):.3f} "
          f"| {float((b - a).min()):+.2f} to {float((b - a).max()):+.2f} |", flush=True)
print(f"| mean | | | {totals['back-propagation']:.3f} | | {totals['lifted']:.3f} | |")

tv = pl.TotalVariation(tolerance=1e-3, max_iterations=60)
smooth = {weight: torch.cat([tv.prox(z, weight) for z in noisy_test[:len(few)].split(1)]) for weight in (0.04, 0.05, 0.06, 0.08)}
weight = min(smooth, key=lambda t: float((smooth[t] - few).square().mean()))
best = torch.cat([tv.prox(z, weight) for z in noisy_test.split(1)])
found = {"noisy": noisy_test, f"total variation, weight {weight:g}": best, **found}
print(f"\ntotal variation, the best of {len(smooth)} weights ({weight:g}): {float(psnr(best).mean()):.3f} dB")

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(13, 6.2), layout="constrained")
axes = fig.subplots(2, 3)
for ax, (name, image) in zip(axes.ravel(), [("true image", test), *found.items()]):
    ax.imshow(image[0, 0].clamp(0, 1), cmap="gray", vmin=0, vmax=1)
    ax.set_title(name + ("" if name == "true image" else f": {float(psnr(image)[0]):.2f} dB"), fontsize=10)
    ax.axis("off")
for (name, points), style in zip(curves.items(), ("k-o", "k--s")):
    axes[1, 2].plot(*zip(*points), style, markersize=4, label=f"{name}: {points[-1][1]:.2f} dB")
level = float(psnr(best)[:len(few)].mean())
axes[1, 2].axhline(level, color="0.5", linestyle=":", label=f"total variation: {level:.2f} dB")
axes[1, 2].set(title=f"seed {seed}, mean PSNR of test images 1 to {len(few)}", xlabel="processor seconds of training", ylabel="PSNR (dB)")
axes[1, 2].grid(alpha=0.3), axes[1, 2].legend(fontsize=8)
fig.savefig(output / "proximal_denoiser.png", dpi=120)
print(f"figure: {output / 'proximal_denoiser.png'}")
