"""MRI operators beside the bare arithmetic and other libraries: times of forward + adjoint as ratios, one thread, alternating; peak memory of a 3-D problem.

python benchmarks/imaging_mri.py [--quick]. finufft and sigpy are compared with where they are installed.
"""

import subprocess
import sys

import numpy as np
import torch
from peers import options

import paralift as pl
from paralift.bench import alternating

MEMORY = """
import resource, sys, torch, paralift as pl
n, coils = int(sys.argv[1]), 8
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
maps = torch.randn(coils, n, n, n, dtype=torch.complex64)
x, mask, start = torch.randn(n, n, n, dtype=torch.complex64), torch.rand(n, n, n) < 0.2, rss()
A = pl.MRI(mask, maps)
built = rss()
y = A(x); A.adjoint(y); A.normal(x)
print(f"{start:.2f} {built:.2f} {rss():.2f}")
"""


def table(title, times, errors=None):
    print(f"\n{title}")
    first = next(iter(times.values()))
    for name, (median, best) in times.items():
        error = f"   differs by {errors[name]:.1e}" if errors and name in errors else ""
        print(f"  {name:<44}{1e3 * median:9.2f} ms (least {1e3 * best:8.2f})   ratio of medians {median / first[0]:6.3f}, of minima {best / first[1]:6.3f}{error}")


def optional(name):
    try:
        module = __import__(name)
        print(f"{name} {module.__version__}")
        return module
    except ImportError:
        print(f"{name} is not installed: left out")


def relative(a, b):
    return float(np.linalg.norm(np.asarray(a).ravel() - np.asarray(b).ravel()) / np.linalg.norm(np.asarray(b).ravel()))


def cartesian(sigpy, repeats, n=256, coils=8):
    g = torch.Generator().manual_seed(0)
    maps, x = torch.randn(coils, n, n, dtype=torch.complex64, generator=g), torch.randn(n, n, dtype=torch.complex64, generator=g)
    mask = pl.variable_density_mask((n, n), 4).float()
    conj, A = maps.conj().resolve_conj(), pl.MRI(mask, maps)

    def bare():
        return (conj * torch.fft.ifft2(mask * (torch.fft.fft2(maps * x, norm="ortho") * mask), norm="ortho")).sum(0)

    calls = {"bare torch.fft arithmetic": bare, "pl.MRI": lambda: A.adjoint(A(x)), "pl.MRI, .normal": lambda: A.normal(x)}
    errors = {}
    if sigpy:
        S = sigpy.mri.linop.Sense(maps.numpy(), weights=mask.numpy())
        SH, image = S.H, x.numpy()
        calls["sigpy Sense"] = lambda: SH(S(image))
        errors["pl.MRI"] = relative(A.adjoint(A(x)), SH(S(image)))          # sigpy takes the root of its weights: the same for 0 and 1
    table(f"Cartesian, {n}x{n}, {coils} coils, complex64, forward + adjoint", alternating(calls, repeats), errors)


def trajectory(finufft, sigpy, repeats, n=256, coils=8, spokes=256, readout=512):
    if finufft is None:
        return
    g = torch.Generator().manual_seed(0)
    x, omega = torch.randn(coils, n, n, dtype=torch.complex64, generator=g), pl.radial_trajectory(spokes, readout)
    for eps in (1e-4, 1e-6):
        A = pl.NUFFT(omega, (n, n), tolerance=eps)
        points = [np.ascontiguousarray(p, np.float32) for p in omega.reshape(-1, 2).numpy().T]
        plans = [finufft.Plan(kind, (n, n), n_trans=coils, eps=eps, isign=sign, dtype="complex64", nthreads=1) for kind, sign in ((2, -1), (1, 1))]
        for plan in plans:
            plan.setpts(*points)
        image = x.numpy()
        calls = {f"finufft, its two plans, eps {eps:g}": lambda: plans[1].execute(plans[0].execute(image)), "pl.NUFFT": lambda: A.adjoint(A(x)),
                 "pl.NUFFT, .normal (Toeplitz)": lambda: A.normal(x)}
        errors = {"pl.NUFFT": relative(A.adjoint(A(x)) * n * n, plans[1].execute(plans[0].execute(image))), "pl.NUFFT, .normal (Toeplitz)": relative(A.normal(x), A.adjoint(A(x)))}
        if sigpy and eps == 1e-4:
            # sigpy's coordinates are in cycles over the image
            coordinates = (omega * (n / (2 * np.pi))).numpy().astype(np.float32)
            calls["sigpy nufft"] = lambda: sigpy.nufft_adjoint(sigpy.nufft(image, coordinates), coordinates, image.shape)
        times = alternating(calls, max(repeats // 4, 3), warm=1)
        table(f"Radial, {spokes} spokes x {readout}, {n}x{n}, {coils} coils, complex64, forward + adjoint", times, errors)
        print(f"  Toeplitz over forward + adjoint of pl.NUFFT: {times['pl.NUFFT, .normal (Toeplitz)'][0] / times['pl.NUFFT'][0]:.3f}")


def memory(n):
    run = subprocess.run([sys.executable, "-c", MEMORY, str(n)], capture_output=True, text=True, check=True)
    before, built, peak = (float(v) for v in run.stdout.split())
    stack = 8 * n**3 * 8 / 2**30
    print(f"\n{n}^3, 8 coils, complex64: peak {peak:.2f} GiB with forward, adjoint and normal; {before:.2f} with the data alone, {built:.2f} with the operator; "
          f"one coil stack {stack:.2f} GiB")


if __name__ == "__main__":
    arguments = options(__doc__.splitlines()[0])
    finufft, sigpy = optional("finufft"), optional("sigpy")
    if sigpy:
        import sigpy.mri
    repeats = 8 if arguments.quick else 60
    cartesian(sigpy, repeats)
    trajectory(finufft, sigpy, repeats)
    memory(64 if arguments.quick else 128)
