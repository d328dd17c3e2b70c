"""Learned sampling masks beside tuned variable density and greedy choice, TV reconstruction of slices not used: `python benchmarks/sampling_masks.py [--quick]`.

Data: the 70 chest slices of mri_images in PARALIFT_DATA (with h5py), magnitudes, averaged down to `--size`: 50 to learn from, 10 to tune on (every number that a mask or its
reconstruction depends on: exponents, radii, weights, which draw), 10 to test. With `--quick`, or without data, crops of scikit-image's pictures, 32 x 32.
Data of a slice are its own Fourier coefficients (`--noise`: plus complex Gaussian noise, its standard deviation relative to the peak). Two settings, in each of which every
mask has the same chance: "real", the image is known to be real, every pattern takes one of each pair of mirror images, and the reconstruction knows both; "complex", it is
not, and k and -k are different samples; in "real" variable density that does not know of the pairs is shown too. Masks have the same number of samples, a quarter or an eighth of
the grid, the zero frequency (or its line) included. Three draws of a random mask, means; the others are one mask.
Reconstruction: |M F u - y|^2/2 + weight TV(u), PDHG; the weight is tuned for each mask alike. PSNR of magnitudes for each slice's peak, mean over slices.
"""

import argparse
import os
import time

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="32 x 32 crops, one setting, 4x, few rounds: a minute")
parser.add_argument("--size", type=int, default=128)
parser.add_argument("--settings", nargs="+", default=["real", "complex"])
parser.add_argument("--patterns", nargs="+", default=["samples", "lines"])
parser.add_argument("--factors", nargs="+", type=int, default=[4, 8])
parser.add_argument("--noise", type=float, default=0.0)
parser.add_argument("--steps", type=int, default=60, help="of PDHG, where a mask is judged; half of it where one is learned")
parser.add_argument("--rounds", type=int, default=60, help="of refine_mask")
parser.add_argument("--ablation", action="store_true", help="other starts, orders and densities too")
parser.add_argument("--no-greedy", action="store_true")
parser.add_argument("--masks", help="a file that the masks are written to")
arguments = parser.parse_args()
torch.set_num_threads(1)
if not arguments.quick and "PARALIFT_DATA" in os.environ:
    slices = torch.stack(list(pl.data.mri_slices("chest")))
    slices = torch.nn.functional.avg_pool2d(slices[:, None], slices.shape[-1] // arguments.size)[:, 0]
    learn, tune, test, source = slices[:50], slices[50:60], slices[60:], "chest slices"
else:
    from skimage import data

    pictures, source = [torch.tensor(getattr(data, name)() / 255.0).float() for name in ("coins", "moon", "camera", "brick")], "scikit-image"
    crops = torch.stack([p[i:i + 64, j:j + 64] for i, j in ((60, 40), (140, 100), (200, 220)) for p in pictures])
    slices = torch.nn.functional.avg_pool2d(crops[:, None], 2)[:, 0]
    learn, tune, test = slices[:6], slices[6:8], slices[8:]
    arguments.settings, arguments.patterns, arguments.factors = arguments.settings[:1], arguments.patterns, arguments.factors[:1]
    arguments.rounds = 10
side = slices.shape[-1]
print(f"{source}, {side} x {side}: {len(learn)} to learn, {len(tune)} to tune, {len(test)} to test; noise {arguments.noise:g}; PDHG({arguments.steps}); "
      f"torch {torch.__version__}, one thread\n")


class Setting:
    """Images known to be real, or not; lines or samples; and the groups that a mask chooses from."""

    def __init__(self, real, lines):
        self.real, self.lines = real, lines
        self.space = pl.Space((side, side), torch.float32 if real else torch.complex64)
        self.F = pl.FourierTransform(self.space)
        zero = torch.zeros(side, side, dtype=torch.bool)
        zero[side // 2, side // 2] = True
        self.forced = zero.any(0).expand(side, side).clone() if lines else zero
        self.labels = pl.line_groups((side, side)) if lines else None
        self.groups = pl.SampleGroups(self.F, self.labels, self.forced)
        axis = (torch.arange(side) - side // 2) / (side / 2)
        self.radius = axis.abs() if lines else (axis[:, None] ** 2 + axis**2).sqrt().flatten() / 2**0.5          # label by label, 1 at the farthest
        self.noise = torch.complex(*torch.randn(2, 50, side, side, generator=torch.Generator().manual_seed(9))) * (arguments.noise / 2**0.5)

    def reconstruct(self, mask, images, weight, steps):
        K = pl.FourierTransform(self.space, mask)
        y = K(images.to(self.space.dtype))
        if arguments.noise:
            y = y + mask * self.noise[:len(images)] * images.amax((-2, -1), keepdim=True)
        problem = pl.Composite(nonsmooth=pl.LeastSquares(K, y), linear=weight * pl.GroupL1Norm() @ pl.Gradient(self.space), start=K.adjoint(y))
        return pl.PDHG(steps).solve(problem, progress=False, record_every=steps).x["x"]

    def psnr(self, mask, images, weight, steps=None):
        """PSNR, image by image."""
        return pl.metrics.psnr(self.reconstruct(mask, images, weight, steps or arguments.steps).abs(), images)

    def best_weight(self, mask):
        """(weight, mean PSNR) on the tuning slices."""
        return max(((w, float(self.psnr(mask, tune, w).mean())) for w in WEIGHTS), key=lambda pair: pair[1])


WEIGHTS = (1e-5, 1e-4, 1e-3) if not arguments.noise else (1e-3, 3e-3, 1e-2, 3e-2)         # without noise smaller ones give the same
LEARN = arguments.steps // 2                                                                # steps there
WEIGHT = WEIGHTS[1]                                                                        # where masks are learned and tuned


def variable_density(setting, groups, budget):
    """Density (1 - r)^power around a full centre of radius c, both tuned in turns: ((power, c), masks of several draws)."""
    def draw(power, centre, seed):
        density = (1 - setting.radius).clamp(min=1e-3).double() ** power
        density[setting.radius <= centre] = float("inf")
        return groups.draw(density, budget, seed)

    powers, centres = (0.5, 1, 2, 3, 4, 6, 8, 12, 16), (0.0, 0.02, 0.04, 0.06, 0.09, 0.12, 0.16, 0.2, 0.25, 0.3)
    fits = lambda c: int(groups.costs[setting.radius <= c].sum()) < 0.9 * budget
    seen = {}

    def level(power, centre):
        if (power, centre) not in seen:
            seen[power, centre] = float(setting.psnr(draw(power, centre, 101), tune, WEIGHT, LEARN).mean())
        return seen[power, centre]

    power, centre = 6, 0.04
    for _ in range(2):
        power = max(powers, key=lambda p: level(p, centre))
        centre = max((c for c in centres if fits(c)), key=lambda c: level(power, c))
    return (power, centre), [draw(power, centre, seed) for seed in range(3 if arguments.quick else 8)]


def source_elements(setting, budget, images):
    """(the mask of the design, its scores, label by label)."""
    problem = pl.SamplingDesign(setting.F, pl.TotalVariation(), images.to(setting.space.dtype), budget=budget, groups=setting.labels, forced=setting.forced)
    found = problem.design(pl.FISTA(30), trials=4)
    return found.mask, found.scores.clamp(min=0)


def refined(setting, mask, seed=0):
    return pl.refine_mask(mask, setting.F, learn.to(setting.space.dtype), lambda m, u: setting.reconstruct(m, u.abs(), WEIGHT, LEARN),
                          setting.labels, setting.forced, rounds=arguments.rounds, seed=seed)


def greedy(setting, budget, images, portions=32, candidates=20):
    """From the forced samples on, the addition that raises the mean PSNR of reconstructions of the images most, for its size: lines one by one, the best of some drawn at random;
    samples in portions of budget/portions, drawn at random from rings, each halved by direction, one candidate for each."""
    groups, generator = setting.groups, torch.Generator().manual_seed(0)
    chosen = torch.zeros(len(groups.costs), dtype=torch.bool)
    y, x = torch.meshgrid(*[(torch.arange(side) - side // 2).abs()] * 2, indexing="ij")
    ring = None if setting.lines else (setting.radius * 2**0.5 * 12).long() * 2 + (y > x).flatten()

    def level(more=()):
        trial = chosen.clone()
        trial[more] = True
        return float(setting.psnr(groups.mask(trial), images, WEIGHT, LEARN // 2).mean())

    while True:
        room, now = budget - int(groups.mask(chosen).sum()), level([])
        left = (~chosen & (groups.costs > 0)).nonzero().flatten()
        left = left[torch.randperm(len(left), generator=generator)]
        if setting.lines:
            additions = [line[None] for line in left[:candidates] if groups.costs[line] <= room]
        else:
            additions = [left[ring[left] == r][:min(-(-budget // portions), room)] for r in ring[left].unique()] if room else []
        if not additions:
            return groups.mask(chosen)
        chosen[max(additions, key=lambda more: (level(more) - now) / len(more))] = True


def energy(setting):
    """The root of the mean energy of a choice."""
    return setting.groups.sums(setting.F(learn.to(setting.space.dtype)).abs().square()).sqrt() / setting.groups.costs.clamp(min=1).sqrt()


kept = {}
print("| setting | pattern | budget | mask | samples | weight | tuning | test, dB | over variable density: mean (least) | seconds |\n" + "|---" * 10 + "|", flush=True)
for real in [name == "real" for name in arguments.settings]:
    for lines in [name == "lines" for name in arguments.patterns]:
        setting = Setting(real, lines)
        for factor in arguments.factors:
            budget = side * side // factor
            base = None

            def row(name, masks, seconds):
                """Mean over the masks of each slice's PSNR."""
                global base
                weight, tuning = setting.best_weight(masks[0])
                levels = torch.stack([setting.psnr(mask, test, weight) for mask in masks]).mean(0)
                base = levels if base is None else base
                gain = levels - base
                where = f"{'real' if real else 'complex'} | {'lines' if lines else 'samples'} | {factor}x"
                print(f"| {where} | {name} | {int(masks[0].sum())} | {weight:.1e} | {tuning:.2f} | {float(levels.mean()):.2f} "
                      f"| {float(gain.mean()):+.2f} ({float(gain.min()):+.2f}) | {seconds:.0f} |", flush=True)
                kept[real, lines, factor, name] = masks[0]

            began = time.perf_counter()
            tuned, draws = variable_density(setting, setting.groups, budget)
            row("variable density, power {:g}, centre {:g}".format(*tuned), draws[:3], time.perf_counter() - began)
            levels = [float(setting.psnr(mask, tune, WEIGHT, LEARN).mean()) for mask in draws]
            row(f"the same, the best of {len(draws)} draws", [draws[levels.index(max(levels))]], time.perf_counter() - began)
            if real:
                began = time.perf_counter()
                apart, others = variable_density(setting, pl.SampleGroups(pl.FourierTransform(pl.Space((side, side), torch.complex64)), setting.labels, setting.forced), budget)
                row("variable density, k and -k apart, power {:g}, centre {:g}".format(*apart), others[:3], time.perf_counter() - began)
            began = time.perf_counter()
            mask, scores = source_elements(setting, budget, learn)
            spent = time.perf_counter() - began
            row("source elements", [mask], spent)
            if arguments.ablation:
                row("source elements of denoised slices", [source_elements(setting, budget, pl.TotalVariation((side, side)).prox(learn, 0.02))[0]], 0)
                row("drawn, density of source elements", [setting.groups.draw(scores, budget, seed) for seed in range(3)], 0)
                row("largest energy", [setting.groups.mask(setting.groups.fill(energy(setting), budget))], 0)
                row("drawn, density root of energy", [setting.groups.draw(energy(setting), budget, seed) for seed in range(3)], 0)
                row("variable density, refined", [refined(setting, draws[0])[0]], 0)
            began = time.perf_counter()
            row("source elements, refined", [refined(setting, mask)[0]], spent + time.perf_counter() - began)
            if not arguments.no_greedy:
                began = time.perf_counter()
                row("greedy", [greedy(setting, budget, learn[::17])], time.perf_counter() - began)
if arguments.masks:
    torch.save(kept, arguments.masks)
