"""The real 8-channel brain from a quarter and an eighth of its k-space: PARALIFT's total variation (alone and with wavelets) beside BART's (total variation, wavelets) and
SigPy's (total variation).

python benchmarks/imaging_brain.py [--quick]. The same masks (variable density, 24 x 24 in the middle), maps (ESPIRiT), data and reference (the fully sampled coils, combined) for
all; PSNR (dB) of the magnitude, its peak the reference's; every method takes the best of its weights, found on the first mask, and is timed with it, one thread, alternating over
the masks. BART's time holds the reading and writing of its files; its bare start is printed. Without PARALIFT_DATA a phantom takes the brain's place.
"""

import importlib
import shutil
import statistics
import tempfile
from pathlib import Path

import torch
from peers import bart, options, seconds

import paralift as pl

WEIGHTS = {"paralift TV": (7.5e-4, 1e-3, 1.25e-3, 1.5e-3, 2e-3), "paralift TV + wavelet": (5e-4, 7.5e-4, 1e-3, 1.25e-3, 1.5e-3), "bart TV": (1e-3, 2e-3, 3e-3, 4e-3, 6e-3),
           "bart wavelet": (2e-3, 4e-3, 6e-3, 8e-3, 1.2e-2), "sigpy TV": (5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3)}
BART = {"bart TV": "T", "bart wavelet": "W"}


def methods(folder, maps):
    """{name: (mask, kspace, weight) -> image}; a peer that is not there is skipped with a word."""
    wavelet = pl.L1Norm() @ pl.Wavelet(pl.Space(tuple(maps.shape[1:]), torch.complex64), "db2", 1)
    ours = lambda mask, y, R: pl.FISTA(18).solve(pl.Reconstruction(pl.MRI(mask, maps), y, regulariser=R), progress=False, record_every=18).solution
    found = {"paralift TV": lambda mask, y, w: ours(mask, y, w * pl.TotalVariation()),
             "paralift TV + wavelet": lambda mask, y, w: ours(mask, y, w * (pl.TotalVariation() + 0.6 * wavelet))}
    if shutil.which("bart"):
        pl.io.write_cfl(folder / "maps", maps[:, None])

        def run(kind):
            def reconstruct(mask, y, w):
                pl.io.write_cfl(folder / "kspace", y[:, None])
                bart(folder, "pics", "-S", "-R", f"{kind}:3:0:{w:g}", "-i", "100", "kspace", "maps", "image")
                return pl.io.read_cfl(folder / "image").reshape(maps.shape[1:])

            return reconstruct

        found.update({name: run(kind) for name, kind in BART.items()})
    else:
        print("bart is skipped: it is not on the path")
    try:
        app = importlib.import_module("sigpy.mri.app")
        found["sigpy TV"] = lambda mask, y, w: torch.from_numpy(app.TotalVariationRecon(y.numpy(), maps.numpy(), lamda=w, show_pbar=False).run())
    except ImportError:
        print("sigpy is skipped: it is not installed")
    return found


def main():
    arguments = options(__doc__)
    try:
        kspace = pl.data.brain()
    except FileNotFoundError:
        print("PARALIFT_DATA holds no brain: a phantom takes its place")
        kspace = pl.data.phantom((64, 64) if arguments.quick else (230, 180), noise=0.01)[2]
    shape, seeds = tuple(kspace.shape[1:]), 1 if arguments.quick else 5
    maps = pl.espirit(kspace, min(24, *shape))
    reference = pl.MRI(coil_maps=maps).adjoint(kspace)
    kspace, reference = kspace / reference.abs().max(), reference.abs() / reference.abs().max()
    psnr = lambda image: float(pl.metrics.psnr(image.abs(), reference, peak=1.0))
    with tempfile.TemporaryDirectory() as folder:
        found = methods(Path(folder), maps)
        if "bart TV" in found:
            print(f"bart's bare start: {min(seconds(lambda: bart(folder, 'version'))[0] for _ in range(5)):.3f} s")
        for acceleration in (4, 8):
            masks = [pl.variable_density_mask(shape, acceleration, calibration=min(24, shape[0] // 4), seed=seed) for seed in range(seeds)]
            data = [(mask, (kspace * mask).contiguous()) for mask in masks]
            best = {name: max(WEIGHTS[name][:2] if arguments.quick else WEIGHTS[name], key=lambda w: psnr(run(*data[0], w))) for name, run in found.items()}
            times, values = {name: [] for name in found}, {name: [] for name in found}
            for k, pair in enumerate(data):
                for name in list(found) if k % 2 else list(reversed(found)):
                    spent, image = seconds(lambda: found[name](*pair, best[name]))
                    times[name].append(spent), values[name].append(psnr(image))
            zero = statistics.mean(psnr(pl.MRI(coil_maps=maps).adjoint(y)) for _, y in data)
            print(f"\nR = {acceleration}, {seeds} masks: zero filled {zero:.2f} dB\n| method | weight | PSNR mean (least to largest) | seconds, median | over paralift |")
            print("|---|---|---|---|---|")
            for name in found:
                own, t, ratio = values[name], statistics.median(times[name]), statistics.median(times[name]) / statistics.median(times["paralift TV"])
                print(f"| {name} | {best[name]:g} | {statistics.mean(own):.2f} ({min(own):.2f} to {max(own):.2f}) | {t:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
