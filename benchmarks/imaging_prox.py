"""Proxes of imaging beside their peers: `python benchmarks/imaging_prox.py [--quick]`; one thread, taking turns, the least of the repetitions; an absent peer is skipped.

Total variation, 256 x 256, noise 0.1, weight 0.1, float32: time until (E(u) - E*)/E* is at most each target, E* from a run to 1e-9. A peer's is found by doubling its iterations.
Ours stops on its own certificate, so it pays for the gap; theirs get the number of iterations for nothing. Wavelet: db4, 4 levels, analysis and synthesis, against PyWavelets.
"""

import argparse
import time

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="64 x 64, few repetitions")
quick = parser.parse_args().quick
torch.set_num_threads(1)
side, repeats, weight, targets = (64, 1, 0.1, (1e-2, 1e-3)) if quick else (256, 5, 0.1, (1e-2, 1e-3, 1e-4))
rows = torch.linspace(0, 1, side)
clean = (((rows[:, None] - 0.5) ** 2 + (rows - 0.4) ** 2 < 0.09).float() * 0.6 + (rows[:, None] > rows).float() * 0.2 + 0.2 * torch.sin(6 * rows) * rows[:, None])
noisy = clean + 0.1 * torch.randn(side, side, generator=torch.Generator().manual_seed(0))
TV = pl.TotalVariation()


def energy(u):
    u = torch.as_tensor(u, dtype=torch.float64).reshape(side, side)
    return float(0.5 * (u - noisy.double()).square().sum() + weight * TV(u))


best = energy(pl.TotalVariation(tolerance=1e-9, max_iterations=20000).prox(noisy.double(), weight))
error = lambda u: (energy(u) - best) / best


def skimage(iterations):
    from skimage.restoration import denoise_tv_chambolle

    return lambda: denoise_tv_chambolle(noisy.numpy(), weight=weight, eps=0, max_num_iter=iterations)


def pyproximal(iterations):
    from pyproximal import TV as Theirs

    prox = Theirs((side, side), sigma=weight, niter=iterations, rtol=0)
    return lambda: prox.prox(noisy.numpy().ravel(), 1.0)


def ours(tolerance):
    f = pl.TotalVariation(tolerance=tolerance)
    return lambda: f.prox(noisy, weight)


def first(make, settings, target):
    """The first setting that reaches the target, as a call; None where none does."""
    for setting in settings:
        call = make(setting)
        if error(call()) <= target:
            return call
    return None


def turns(calls):
    """{name: least seconds}, the calls taking turns."""
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: min(t) for name, t in times.items()}


print(f"| total variation {side} x {side}, target | " + " | ".join(("ours (ms)", "skimage", "pyproximal", "ours / fastest peer")) + " |\n" + "|---" * 5 + "|")
for target in targets:
    calls = {"ours": first(ours, [2.0**-k * 1e-2 for k in range(24)], target)}
    for name, make in (("skimage", skimage), ("pyproximal", pyproximal)):
        try:
            call = first(make, [int(10 * 2 ** (k / 2)) for k in range(12 if quick else 18)], target)
        except ImportError:
            print(f"{name} is not installed: skipped")
            continue
        if call is not None:
            calls[name] = call
    t = turns(calls)
    peers = [v for k, v in t.items() if k != "ours"]
    cell = lambda name: f"{1e3 * t[name]:.1f}" if name in t else "-"
    ratio = f"{t['ours'] / min(peers):.2f}" if peers else "-"
    print(f"| {target:g} | {cell('ours')} | {cell('skimage')} | {cell('pyproximal')} | {ratio} |", flush=True)

try:
    import pywt
except ImportError:
    raise SystemExit("PyWavelets is not installed: the wavelet is skipped") from None
for batch in (1, 8):
    stack = noisy.expand(batch, side, side).contiguous()
    W = pl.Wavelet((side, side), "db4", 3 if quick else 4)
    theirs = lambda: pywt.waverecn(pywt.wavedecn(stack.numpy(), "db4", mode="periodization", level=W.levels, axes=(1, 2)), "db4", mode="periodization", axes=(1, 2))
    t = turns({"ours": lambda: W.adjoint(W(stack)), "pywt": theirs})
    print(f"wavelet db4, {batch} x {side} x {side}, analysis and synthesis: ours {1e3 * t['ours']:.2f} ms, PyWavelets {1e3 * t['pywt']:.2f} ms, ratio {t['ours'] / t['pywt']:.2f}")
