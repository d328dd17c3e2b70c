"""PET from list mode: the real events of a Siemens mMR: `python examples/pet_listmode.py [--output DIR] [--quick]`.

    scan = pl.io.read_listmode("PET_ACQ_small.l.hdr.STIR")         # prompts, delayeds, duration
    B = A.list_mode(scan.prompts)                                  # one line per event
    x = x / A.adjoint(ones) * B.adjoint(1 / (B(x) + B.background))

The first 612 ms of an 18F-FDG scan of a head (PARALIFT_DATA/pet): 218,881 prompts and 35,320 delayeds. All planes are added up into the transaxial one, as there are some 50
events a plane. Randoms: the delayed window counts them on every line, but with less than one count a line; as the rate of randoms on a line is the product of the rates of its
two crystals, r = e_i e_j, the crystals' rates are found from the delayeds by maximum likelihood, e_i <- (delayeds of crystal i) / (sum of e over its partners), 504 numbers
instead of 86,688. Neither attenuation nor normalisation nor scatter is in the file: the image is no activity in kBq/ml, only gaps and randoms are accounted for.

No truth is known, so half of the events, every second one, is kept back: the Poisson log-likelihood of these, per event, says how well an image predicts data that it has not
seen. List-mode MLEM visits the events, MLEM the lines of the sinogram; both make the same iterates, which is checked. OSEM: subsets of events, or of views. Total variation by
PDHG on the sinogram, to a gap of 1e-3 of the objective, with the weight that predicts best.
Without the data, and with --quick, events of a phantom are simulated on a small ring.
"""

import argparse
import time
from pathlib import Path

import torch

import paralift as pl
from paralift.files import located

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="simulated events on a small ring")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)


def simulated(scanner, shape, voxel, trues, randoms):
    """Events of a phantom, in random order, and as many delayeds as randoms."""
    activity, mu = pl.data.emission_phantom(shape)
    A = pl.PET(scanner, shape, voxel, attenuation=mu)
    expected = A(activity) * (trues / float(A(activity).sum()))
    flat = randoms / expected.numel() * torch.ones_like(expected)

    def events(rate):
        lines = torch.repeat_interleave(torch.arange(rate.numel()), torch.poisson(rate, generator=generator).flatten().long())
        lines = lines[torch.randperm(len(lines), generator=generator)]
        return pl.Events(lines // scanner.bins, lines % scanner.bins)

    return events(expected + flat), events(flat)


try:
    if arguments.quick:
        raise FileNotFoundError
    scan = pl.io.read_listmode(located("pet/mMR_listmode", "PET_ACQ_small.l.hdr.STIR", "a simulation"))
    plane = lambda events: pl.Events(events.view, events.bin)                     # all planes in one
    prompts, delayeds, source = plane(scan.prompts), plane(scan.delayeds), f"Siemens mMR, {scan.duration} ms"
    scanner, shape, voxel = pl.CylindricalScanner.mmr(rings=1), (128, 128), 2.5
except FileNotFoundError:
    scanner, shape, voxel, source = pl.CylindricalScanner(128, 334.7, 88), (48, 48), 5.3, "simulated"
    prompts, delayeds = simulated(scanner, shape, voxel, 40000, 8000)

# ---- randoms: r = e_i e_j on the lines that are alive
first, second = scanner.pair(torch.arange(scanner.shape[0])[:, None], torch.arange(scanner.bins))
live = torch.ones(scanner.shape, dtype=torch.bool) if scanner.live is None else scanner.live
measured = pl.histogram(delayeds, scanner)


def per_crystal(lines):
    """The sum over the lines of every crystal."""
    total = torch.zeros(scanner.crystals)
    return total.index_add_(0, first[live], lines[live]).index_add_(0, second[live], lines[live])


singles = torch.ones(scanner.crystals)
seen = per_crystal(measured)
for _ in range(50):
    product = live * singles[first] * singles[second]
    step = seen / per_crystal(product).clamp(min=1e-12)
    singles = singles * step.sqrt()                                              # both ends share the correction
randoms = live * singles[first] * singles[second]

# ---- half of the events to reconstruct from, half to predict
known, kept_back = prompts[0::2], prompts[1::2]
A = pl.PET(scanner, shape, voxel, background=randoms / 2)
B, counts, unseen = A.list_mode(known), pl.histogram(known, scanner), pl.histogram(kept_back, scanner)
sensitivity = A.adjoint(torch.ones(scanner.shape))
start = torch.full(shape, float(len(known)) / float(sensitivity.sum()))


def prediction(x):
    """log-likelihood of the events kept back, per event, above that of a uniform image."""
    def likelihood(image):
        expected = (A(image) + A.background)[live]
        return float((torch.special.xlogy(unseen[live], expected) - expected).sum()) / len(kept_back)
    return likelihood(x) - likelihood(start)


def list_mode(iterations, subsets):
    """(the images after every iteration, seconds): MLEM on the events, on every subsets-th of them in turn."""
    parts, x, images = [B.rows(slice(k, None, subsets)) for k in range(subsets)] if subsets > 1 else [B], start, []
    inverse = torch.where(sensitivity > 0, subsets / sensitivity, 0)
    for part in parts:
        part.adjoint(part(x))                                                    # the taps are made once
    began = time.perf_counter()
    for _ in range(iterations):
        for part in parts:
            x = x * inverse * part.adjoint(1 / (part(x) + part.background).clamp(min=1e-12))
        images.append(x)
    return images, time.perf_counter() - began


many, some, short = (10, 5, 60) if arguments.quick else (40, 8, 200)
sinogram = pl.Reconstruction(A, counts, "poisson", start=start)
images, seconds = list_mode(many, 1)
curves, found = {"list-mode MLEM": images}, {}
result = pl.MLEM(many).solve(sinogram, progress=False, record_every=many)
difference = float((result.solution - images[-1]).norm() / images[-1].norm())
timing = {"list-mode MLEM": (seconds / many, len(known)), "MLEM on the sinogram": (result.seconds / many, int(live.sum()))}
images, seconds = list_mode(some, 8)
curves["list-mode OSEM, 8 subsets"], timing["list-mode OSEM, 8 subsets"] = images, (seconds / some, len(known))
curves["OSEM on the sinogram, 7 subsets"] = []
result = pl.OSEM(some, subsets=7).solve(sinogram, progress=False, callback=lambda result: curves["OSEM on the sinogram, 7 subsets"].append(result.x["x"]))
timing["OSEM on the sinogram, 7 subsets"] = (result.seconds / some, int(live.sum()))
scores = {name: [prediction(x) for x in images] for name, images in curves.items()}
for name, values in scores.items():
    best = max(range(len(values)), key=values.__getitem__)
    found[name] = (curves[name][best], f"iteration {best + 1} of {len(values)}", values[best], "")
    if name == "list-mode MLEM":
        found["the same, at the end"] = (curves[name][-1], f"iteration {len(values)}", values[-1], "")
tried = {}
image = start
for weight in (64.0, 32.0, 16.0, 8.0, 4.0):
    problem = pl.Reconstruction(A, counts, "poisson", regulariser=weight * pl.TotalVariation(), start=image)
    image = pl.PDHG(short).solve(problem, progress=False, record_every=short).solution
    tried[weight] = prediction(image)
weight = max(tried, key=tried.get)
problem = pl.Reconstruction(A, counts, "poisson", regulariser=weight * pl.TotalVariation(), start=start)
result = pl.PDHG(3000, tolerance=pl.Tolerance(gap=1e-3)).solve(problem, progress=False, record_every=50)
found["total variation"] = (result.solution, f"weight {weight:g}, {result.iterations} iterations", prediction(result.solution), f"gap {result.history['gap'][-1]:.1e}")
timing["total variation"] = (result.seconds / result.iterations, int(live.sum()))

print(f"{source}: {len(prompts)} prompts, {len(delayeds)} delayeds on {int(live.sum())} live lines; {scanner}, pixels of {voxel:g} mm\n"
      f"randoms from {scanner.crystals} crystals: {float(randoms.sum()):.0f} expected for {len(delayeds)} delayeds; "
      f"deviance {float(2 * pl.KullbackLeibler(measured[live])(randoms[live].clamp(min=1e-9))) / int(live.sum()):.3f} a line\n"
      f"list-mode and sinogram MLEM after {many} iterations differ by {difference:.1e}\n")
print("| | chosen | log-likelihood of unseen events, above uniform | | ms an iteration |\n|---|---|---|---|---|")
for name, (x, chosen, score, note) in found.items():
    print(f"| {name} | {chosen} | {score:.4f} | {note} | {f'{1e3 * timing[name][0]:.1f}' if name in timing else ''} |")
print(f"| MLEM on the sinogram | | | | {1e3 * timing['MLEM on the sinogram'][0]:.1f} |")

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(15, 7.6), layout="constrained")
axes = fig.subplots(2, 4)
pictures = {"prompts": pl.histogram(prompts, scanner), "expected randoms": randoms}
for ax, (name, picture) in zip(axes[:, 0], pictures.items()):
    top = float(picture[live].quantile(0.995))
    drawn = ax.imshow(picture, cmap="gray_r", aspect="auto", vmin=0, vmax=top)
    ax.set_title(f"{name}: views down, bins across", fontsize=9)
    fig.colorbar(drawn, ax=ax, label="counts a line")
half = [voxel * n / 2 for n in shape]
level = float(found["list-mode MLEM"][0].quantile(0.998))
places = [axes[0, 1], axes[0, 2], axes[0, 3], axes[1, 1], axes[1, 2]]
for ax, (name, (x, chosen, score, _)) in zip(places, found.items()):
    drawn = ax.imshow(x, cmap="gray_r", vmin=0, vmax=level, extent=(-half[1], half[1], half[0], -half[0]))
    ax.set_title(f"{name}\n{chosen}: {score:.4f}", fontsize=9)
    ax.set(xlabel="x (mm)", ylabel="y (mm)")
fig.colorbar(drawn, ax=axes[0, 3], label="counts per mm of line", shrink=0.7)
for (name, values), style in zip(scores.items(), ("k-", "k--o", "k:s")):
    axes[1, 3].plot(range(1, 1 + len(values)), values, style, markersize=3, label=name)
axes[1, 3].axhline(found["total variation"][2], color="0.5", linewidth=2, label="total variation")
axes[1, 3].set(xlabel="iterations over the events", ylabel="log-likelihood per unseen event", ylim=(0.8 * max(map(max, scores.values())), None))
axes[1, 3].legend(fontsize=8, loc="lower right"), axes[1, 3].grid(alpha=0.3)
fig.savefig(output / "pet_listmode.png", dpi=120)
print(f"\nfigure: {output / 'pet_listmode.png'}")
