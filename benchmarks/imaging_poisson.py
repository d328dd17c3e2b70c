"""Total variation of Poisson counts to a certified duality gap: `python benchmarks/imaging_poisson.py [--quick]`.

A ring of 448 crystals sees an FDG-like slice (a phantom without PARALIFT_DATA) with attenuation and a fifth of randoms; min KL(counts, A x + randoms) + w TV(x), x >= 0, is solved
until the gap, an upper bound on E(x) - min E, is below 1e-4 of E: iterations and seconds of PDHG and of SPDHG over subsets of the views, one thread, alternating; beside
them MLEM and OSEM (no regulariser) at their best iteration.
"""

import statistics

import torch
from peers import options, seconds

import paralift as pl


def problem(quick):
    try:
        activity, mu = (image[4] for image in pl.data.fdg_slices()[:2])
    except FileNotFoundError:
        activity, mu = pl.data.emission_phantom((128, 128))
    if quick:
        activity, mu = (image[::4, ::4].contiguous() for image in (activity, mu))
    n, voxel = len(activity), 256 / len(activity)
    A = pl.PET(pl.CylindricalScanner(448 if not quick else 112, 330.0), (n, n), voxel, attenuation=mu)
    A = ((1e5 if quick else 1e6) / float(A(activity).sum())) * A
    expected = A(activity)
    background = torch.full_like(expected, 0.2 * float(expected.mean()))
    counts = torch.poisson(expected + background, generator=torch.Generator().manual_seed(0))
    A.background = background
    return activity, A, counts


def main():
    arguments = options(__doc__)
    activity, A, counts = problem(arguments.quick)
    psnr = lambda x: float(pl.metrics.psnr(x, activity))
    print(f"{A!r}, {int(counts.sum()):,} counts")
    weight, subsets = 0.03 * float(A.adjoint(torch.ones_like(counts)).mean()), 7
    make = lambda: pl.Reconstruction(A, counts, fidelity="poisson", regulariser=weight * pl.TotalVariation())
    print("| method | iterations to a gap of 1e-3, 1e-4 | seconds to 1e-4, median | PSNR (dB) |\n|---|---|---|---|")
    stop = pl.Tolerance(gap=1e-4)
    methods = {"PDHG": lambda: pl.PDHG(20000, tolerance=stop), f"SPDHG, {subsets} subsets": lambda: pl.SPDHG(5000, subsets=subsets, tolerance=stop)}
    runs = {name: [] for name in methods}
    for k in range(1 if arguments.quick else 3):
        for name in list(methods) if k % 2 else list(reversed(methods)):
            runs[name].append(seconds(lambda: methods[name]().solve(make(), progress=False, record_every=10)))
    for name, found in runs.items():
        result = found[0][1]
        first = next((i for i, g in zip(result.history["iteration"], result.history["gap"]) if g <= 1e-3), "-")
        print(f"| {name} | {first}, {result.iterations}{'' if result.success else ' (not reached)'} | {statistics.median(t for t, _ in found):.2f} "
              f"| {psnr(result.solution):.2f} |", flush=True)
    for name, solver in (("MLEM", pl.MLEM(60)), (f"OSEM, {subsets} subsets", pl.OSEM(20, subsets=subsets))):
        seen = []
        spent, _ = seconds(lambda: solver.solve(pl.Reconstruction(A, counts, fidelity="poisson"), progress=False, callback=lambda r: seen.append(psnr(r.x["x"]))))
        print(f"| {name}, the best of {len(seen)} iterations | {seen.index(max(seen)) + 1} | {spent * (seen.index(max(seen)) + 1) / len(seen):.2f} | {max(seen):.2f} |")


if __name__ == "__main__":
    main()
