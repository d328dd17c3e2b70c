"""Coil maps by ESPIRiT on the real 8-channel brain (a phantom where it is absent): PARALIFT, BART and SigPy, seconds and quality, one thread, alternating.

Quality: |m - P m| / |m| over the head, m the images of the coils and P m = S (S* m) what the maps explain; and the error of all of k-space after 12 conjugate-gradient
iterations of SENSE on a quarter and an eighth of it. BART's time holds the reading and writing of its files; its bare start is timed apart.
"""

import importlib
import shutil
import statistics
import tempfile
from pathlib import Path

import torch
from peers import bart, options, seconds

import paralift as pl
from paralift.io import read_cfl, write_cfl

CALIBRATION, AXES = 24, (-2, -1)


def methods(kspace, folder):
    """{name: () -> maps}; a peer that is not there is skipped with a word."""
    ours = {"paralift": lambda: pl.espirit(kspace, CALIBRATION)}
    if shutil.which("bart"):
        write_cfl(Path(folder) / "kspace", kspace[:, None])
        ours["bart"] = lambda: (bart(folder, "ecalib", "-m1", f"-r{CALIBRATION}", "kspace", "maps"), read_cfl(Path(folder) / "maps")[:, 0])[1]
    else:
        print("bart is skipped: it is not on the path")
    try:
        app = importlib.import_module("sigpy.mri.app")
        ours["sigpy"] = lambda: torch.from_numpy(app.EspiritCalib(kspace.numpy(), calib_width=CALIBRATION, show_pbar=False).run())
    except ImportError:
        print("sigpy is skipped: it is not installed")
    return ours


def fourier(x):
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, AXES), norm="ortho"), AXES)


def images(y):
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(y, AXES), norm="ortho"), AXES)


def unexplained(kspace, maps):
    m = images(kspace)
    total = pl.root_sum_of_squares(m)
    left = m - maps * (maps.conj() * m).sum(0)
    head = total > 0.1 * total.max()
    return float(torch.linalg.vector_norm(left[:, head]) / torch.linalg.vector_norm(m[:, head]))


def prediction(kspace, maps, acceleration, iterations=12):
    """The error of all of k-space, relative, from a variable-density part of it that holds the calibration centre."""
    ny, nx = kspace.shape[1:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, ny), torch.linspace(-1, 1, nx), indexing="ij")
    density = (1 - (x ** 2 + y ** 2).sqrt().clamp(max=1)) ** 2 + 0.03
    mask = (torch.rand(ny, nx, generator=torch.Generator().manual_seed(0)) < density * (ny * nx / acceleration / density.sum())).float()
    half = CALIBRATION // 2
    mask[ny // 2 - half:ny // 2 + half, nx // 2 - half:nx // 2 + half] = 1
    normal = lambda v: (maps.conj() * images(mask * fourier(maps * v))).sum(0) + 1e-3 * v
    r = (maps.conj() * images(mask * kspace)).sum(0)
    v, p, square = torch.zeros_like(r), r, r.abs().square().sum()
    for _ in range(iterations):
        q = normal(p)
        step = square / (p.conj() * q).sum().real
        v, r = v + step * p, r - step * q
        last, square = square, r.abs().square().sum()
        p = r + square / last * p
    return float(torch.linalg.vector_norm(fourier(maps * v) - kspace) / torch.linalg.vector_norm(kspace))


def main():
    arguments = options(__doc__.splitlines()[0])
    try:
        kspace = pl.data.brain()
    except FileNotFoundError:
        kspace = pl.data.phantom((230, 180), noise=0.02)[2]
        print("the brain is absent; a phantom takes its place")
    with tempfile.TemporaryDirectory() as folder:
        runs = methods(kspace, folder)
        times, maps = {name: [] for name in runs}, {}
        for repeat in range(2 if arguments.quick else 9):
            for name in runs if repeat % 2 else reversed(runs):
                taken, maps[name] = seconds(runs[name])
                times[name].append(taken)
        starts = [seconds(lambda: bart(folder, "version"))[0] for _ in range(3)] if "bart" in runs else [0.0]
    maps["low resolution"] = pl.low_resolution_maps(kspace, CALIBRATION)
    print(f"{'maps of ' + ' x '.join(map(str, kspace.shape)):<24}{'median s':>10}{'least s':>10}{'/ paralift':>11}{'|m - Pm|/|m|':>14}{'R = 4':>9}{'R = 8':>9}{'support':>9}")
    for name, S in maps.items():
        middle = {n: statistics.median(t) for n, t in times.items()}
        clock = f"{middle[name]:10.3f}{min(times[name]):10.3f}{middle[name] / middle['paralift']:11.2f}" if name in times else " " * 31
        print(f"{name:<24}{clock}{unexplained(kspace, S):14.5f}{prediction(kspace, S, 4):9.5f}{prediction(kspace, S, 8):9.5f}{float((S != 0).any(0).float().mean()):9.3f}")
    if "bart" in runs:
        print(f"bart's start takes {min(starts):.3f} s of its time")


if __name__ == "__main__":
    main()
