"""Projectors for PET and CT: forward and adjoint beside ASTRA and scikit-image, one thread, turn by turn; the price per nonzero, batches, time of flight, memory.

`python benchmarks/imaging_pet.py [--quick] [--repeats 15]` prints medians of milliseconds and their ratios. ASTRA and scikit-image are left
out with a word when absent.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch

import paralift as pl

N, VIEWS, BINS = 128, 180, 185


def compare(jobs, repeats):
    """Median milliseconds of every job, taken in turn."""
    for job in jobs.values():
        job()
    seconds = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - began)
    return {name: 1e3 * statistics.median(s) for name, s in seconds.items()}


def both(op, *batch):
    x, y = torch.rand(*batch, *op.domain.shape), torch.rand(*batch, *op.range.shape)
    return lambda: (op(x), op.adjoint(y))


def astra_jobs(angles):
    try:
        import astra
    except ImportError:
        print("astra-toolbox is not installed: left out")
        return {}
    volume, beam = astra.create_vol_geom(N, N), astra.create_proj_geom("parallel", 1.0, BINS, angles)
    x, y = np.random.rand(N, N).astype(np.float32), np.random.rand(VIEWS, BINS).astype(np.float32)

    def job(kind):
        projector = astra.create_projector(kind, beam, volume)

        def run():
            astra.data2d.delete(astra.create_sino(x, projector)[0])
            astra.data2d.delete(astra.create_backprojection(y, projector)[0])
        return run
    return {f"ASTRA CPU, {kind}": job(kind) for kind in ("linear", "strip")}


def skimage_jobs(angles):
    try:
        from skimage.transform import iradon, radon
    except ImportError:
        print("scikit-image is not installed: left out")
        return {}
    grid = np.arange(N) - (N - 1) / 2
    x, degrees = (np.hypot(*np.meshgrid(grid, grid)) < N / 2 - 1).astype(np.float32), np.degrees(angles)
    y = radon(x, degrees)
    return {"scikit-image": lambda: (radon(x, degrees), iradon(y, degrees, filter_name=None))}


def agreement(op):
    """The largest difference to the matrix-free products in float64, relative."""
    x = torch.rand(op.domain.shape)
    free = pl.JosephProjector(op.geometry, op.domain.shape, op.voxel_size, op.origin, op.tof, storage="matrix-free")(x.double())
    return float((op(x) - free).abs().max() / free.abs().max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two repeats, no time of flight")
    parser.add_argument("--repeats", type=int, default=15)
    a = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 2 if a.quick else a.repeats
    angles = np.arange(VIEWS) * np.pi / VIEWS
    A = pl.RayTransform((N, N), torch.from_numpy(angles), bins=BINS)
    ring = pl.JosephProjector(pl.CylindricalScanner(448, 330.0, 209), (N, N), 4.0)
    times = compare({"paralift": both(A), "paralift, matrix-free": both(pl.RayTransform((N, N), torch.from_numpy(angles), bins=BINS, storage="matrix-free")),
                     **astra_jobs(angles), **skimage_jobs(angles)}, repeats)
    print(f"parallel beam {N} x {N}, {VIEWS} angles, {BINS} bins, forward + adjoint (ms; ratio to the first)")
    for name, ms in times.items():
        print(f"  {name:<24} {ms:9.1f} {ms / times['paralift']:8.2f}")
    times = compare({"one": both(A), "batch of 8": both(A, 8), "ring": both(ring)}, repeats)
    nonzeros = {name: op._matrix(torch.zeros(1))[0].matrix.values().numel() for name, op in (("one", A), ("ring", ring))}
    print(f"batch of 8: {times['batch of 8']:.1f} ms, {times['batch of 8'] / times['one']:.2f} times one image")
    each = {name: 1e6 * times[name] / nonzeros[name] for name in nonzeros}
    print(f"PET ring of 448 crystals, {ring.range.size} lines: {times['ring']:.1f} ms, {nonzeros['ring']:,} nonzeros; per nonzero {each['ring']:.2f} ns, "
          f"parallel beam {each['one']:.2f} ns, ratio {each['ring'] / each['one']:.2f}; float32 against float64 matrix-free {agreement(ring):.1e}")
    for name, op in (("parallel beam", A), ("ring", ring)):
        taken = sum(m.values().numel() * 8 + 4 * m.crow_indices().numel() for m in vars(op._matrix(torch.zeros(1))[0]).values())
        print(f"memory of the {name}: stated {op.bytes / 2**20:.1f} MiB, taken {taken / 2**20:.1f} MiB")
    if not a.quick:
        began = time.perf_counter()
        tof = pl.JosephProjector(ring.geometry, (N, N), 4.0, tof=pl.TimeOfFlight(21, 190.0, 400.0))
        job = both(tof)
        job()
        made = time.perf_counter() - began
        ms = compare({"tof": job}, max(3, repeats // 3))["tof"]
        print(f"ring with 21 time bins: {ms:.0f} ms, {ms / times['ring']:.1f} times without time (made in {made:.1f} s); stated {tof.bytes / 2**20:.0f} MiB")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


if __name__ == "__main__":
    main()
