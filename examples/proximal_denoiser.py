"""A proximal network for denoising, lifted and by back-propagation: `python examples/proximal_denoiser.py [--passes N] [--rho R] [--output DIR] [--quick]`.

Wang, Benning & Repetti (MLSP 2024) unroll the dual forward-backward steps of min_x |x - z|^2/2 + t |L x|_1,

    u_{k+1} = clip(u_k - tau_k L_k (L_k* u_k - z), -t, t),      x = z - L* u,

with filters L_k of their own in every layer, and train them lifted: the Bregman penalty of the clip ties the layers. Here: patches 32 x 32 of the first 40 images of BSD68,
Gaussian noise of standard deviation 25/255, squared error. The lifted run is ISGM with one sweep a minibatch in Adam's metric; back-propagation is torch's Adam. Both have the
same start, the same order of the minibatches and a step that falls linearly. They take turns: after each pass of the lifted run, back-propagation goes on for as many processor
seconds, so that a busy machine slows both.

Paper and script differ: the paper trains by a block-coordinate forward-backward method over minibatches, and its figures could not be read, so there is none to compare with.
One sweep with a large rho nearly is back-propagation's step: the aim is to lose nothing at equal time. Smaller rho were worse in short trials (0.3 dB at rho = 2, 1.5 dB at
0.3).
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
parser.add_argument("--passes", type=int, default=3, help="of the lifted run over the patches")
parser.add_argument("--step", type=float, default=3e-3)
parser.add_argument("--rho", type=float, default=20.0)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="a pass over few patches of scikit-image's images")
arguments = parser.parse_args()
passes, size, sigma, side = 2 if arguments.quick else arguments.passes, arguments.batch, 25 / 255, 32
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

folder = Path(os.environ.get("PARALIFT_DATA", "")) / "denoising" / "BSD68"
if not arguments.quick and folder.is_dir():
    from matplotlib.image import imread

    images = [torch.from_numpy(imread(file)) for file in sorted(folder.glob("*.png"))]
    images = [image if image.shape[0] < image.shape[1] else image.T for image in images]         # all 321 x 481
    train, test, source = images[:40], torch.stack(images[40:]).unsqueeze(1), "BSD68"
else:
    from skimage import data

    images = [torch.from_numpy(getattr(data, name)()).float() / 255 for name in ("coins", "moon", "page", "camera")]
    train, test, source = images[:3], images[3][None, None, 128:384, 128:384], "scikit-image"

torch.manual_seed(arguments.seed)
patches = torch.cat([image.unfold(0, side, side).unfold(1, side, side).reshape(-1, 1, side, side) for image in train])
patches = patches[torch.randperm(len(patches))[:100]] if arguments.quick else patches
noisy, noisy_test = (clean + sigma * torch.randn_like(clean) for clean in (patches, test))
network = pl.networks.ProximalNetwork(filters=24, steps=6, kernel=5, threshold=0.02)


def psnr(restored):
    """Peak signal-to-noise ratio in dB for the peak 1, the mean over the test images."""
    return float((-10 * (restored - test).square().mean((1, 2, 3)).log10()).mean())


def denoised(net):
    with torch.no_grad():
        return torch.cat([net(z) for z in noisy_test.split(1)])


class BackPropagation:
    """torch's Adam on |network(z) - x|^2 / 2, a turn at a time; the order of the samples is that of ISGM."""

    def __init__(self):
        self.network, self.batches, self.seconds = copy.deepcopy(network), 0, 0.0
        self.optimizer = torch.optim.Adam(self.network.parameters(), fused=True)

    def turn(self, seconds, done):
        """Train for so many processor seconds, at the step of the fraction `done` at the turn's start."""
        began, spent, many = time.process_time(), 0.0, len(patches) // size
        while spent < seconds:
            epoch, k = divmod(self.batches, many)
            if k == 0 or self.batches == 0:
                self.order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(arguments.seed * 1_000_003 + epoch))
            rows = self.order[k * size:(k + 1) * size]
            self.optimizer.param_groups[0]["lr"] = arguments.step * max(0.02, 1 - done - spent / seconds / passes)
            self.optimizer.zero_grad(set_to_none=True)
            (0.5 * (self.network(noisy[rows]) - patches[rows]).square().sum() / len(rows)).backward()
            self.optimizer.step()
            self.batches, spent = self.batches + 1, time.process_time() - began
        self.seconds += spent


problem = pl.LiftedTraining(network, noisy, patches, loss="squared_error", penalty="bregman", rho=arguments.rho)
print(problem)
other, curves = BackPropagation(), {"lifted": [(0.0, psnr(denoised(network)))], "back-propagation": [(0.0, psnr(denoised(network)))]}
clock, spent = time.process_time(), 0.0
print("\n| pass | lifted: seconds | PSNR (dB) | back-propagation: seconds | passes | PSNR (dB) |\n|---|---|---|---|---|---|")


def take_turns(result):
    """After a pass of the lifted run: the other's turn, then both networks on the test images."""
    global clock, spent
    turn = time.process_time() - clock
    spent += turn
    other.turn(turn, (result.iterations - 1) / passes)
    for name, net, used in (("lifted", problem.finish(result.x), spent), ("back-propagation", other.network, other.seconds)):
        curves[name].append((used, psnr(denoised(net))))
    (s, p), (t, q) = curves["lifted"][-1], curves["back-propagation"][-1]
    print(f"| {result.iterations} | {s:.1f} | {p:.2f} | {t:.1f} | {other.batches * size / len(patches):.2f} | {q:.2f} |", flush=True)
    clock = time.process_time()


result = pl.ISGM(passes, batch_size=size, step=arguments.step, schedule="linear", seed=arguments.seed).solve(problem, callback=take_turns, progress=False)
tv, few = pl.TotalVariation(tolerance=1e-3, max_iterations=60), min(8, len(test))
smooth = {weight: torch.cat([tv.prox(z, weight) for z in noisy_test[:few].split(1)]) for weight in (0.06, 0.08, 0.1)}
weight = min(smooth, key=lambda t: float((smooth[t] - test[:few]).square().mean()))
best = torch.cat([tv.prox(z, weight) for z in noisy_test.split(1)]) if len(test) > few else smooth[weight]
found = {"noisy": noisy_test, f"total variation, weight {weight:g}": best, "back-propagation": denoised(other.network), "lifted": denoised(result.network)}
print(f"\nmean PSNR on {len(test)} test images ({source})\n\n| image | PSNR (dB) |\n|---|---|")
for name, restored in found.items():
    print(f"| {name} | {psnr(restored):.2f} |")
gain = -10 * ((found["lifted"] - test).square().mean((1, 2, 3)) / (found["back-propagation"] - test).square().mean((1, 2, 3))).log10()
print(f"\nlifted above back-propagation, image by image: mean {float(gain.mean()):+.3f} dB, from {float(gain.min()):+.2f} to {float(gain.max()):+.2f}")

from matplotlib.figure import Figure  # noqa: E402

shown = 0
fig = Figure(figsize=(13, 6.4), layout="constrained")
axes = fig.subplots(2, 3)
one = lambda a: float(-10 * (a[shown] - test[shown]).square().mean().log10())  # noqa: E731
for ax, (name, image) in zip(axes.ravel(), [("true image", test), *found.items()]):
    ax.imshow(image[shown, 0].clamp(0, 1), cmap="gray", vmin=0, vmax=1)
    ax.set_title(name + ("" if name == "true image" else f": {one(image):.2f} dB"), fontsize=10)
    ax.axis("off")
for (name, points), style in zip(curves.items(), ("k-o", "k--s")):
    axes[1, 2].plot(*zip(*points[1:]), style, markersize=4, label=f"{name}: {points[-1][1]:.2f} dB")
axes[1, 2].axhline(psnr(best), color="0.5", linestyle=":", label=f"total variation: {psnr(best):.2f} dB")
axes[1, 2].set(title=f"mean over {len(test)} test images", xlabel="processor seconds of training", ylabel="PSNR (dB)")
axes[1, 2].grid(alpha=0.3), axes[1, 2].legend(fontsize=8)
fig.savefig(output / "proximal_denoiser.png", dpi=120)
print(f"figure: {output / 'proximal_denoiser.png'}")
