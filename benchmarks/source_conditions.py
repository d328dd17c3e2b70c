"""Published figures of arXiv 2303.00696 by the public classes, and the time of a step beside plain numpy with one pair of FFTs: `python benchmarks/source_conditions.py [--quick]`.

float64, one thread. The two take turns, 50 steps of ours and 10 of numpy's; the ratio is of the fastest of them. Images: Shepp-Logan and the astronaut of scikit-image,
400 x 400 (skipped with a word without it); 256 x 256 for the Hadamard transform, which has no rival here.
"""

import argparse
import platform
import time

import numpy as np
import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="100 steps, 96 x 96: the times only")
quick = parser.parse_args().quick
torch.set_num_threads(1)
print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}, one thread{', quick' if quick else ''}\n")


def gradient(u):
    out = np.zeros((2, *u.shape))
    out[0, :, :-1] = u[:, 1:] - u[:, :-1]
    out[1, :-1] = u[1:] - u[:-1]
    return out


def divergence(p):
    """The adjoint of `gradient`."""
    out = np.zeros_like(p[0])
    out[:, :-1] -= p[0, :, :-1]
    out[:, 1:] += p[0, :, :-1]
    out[:-1] -= p[1, :-1]
    out[1:] += p[1, :-1]
    return out


class Plain:
    """The authors' iteration in numpy, with one FFT and one inverse FFT a step: v is kept, its image is kept, shifts are folded into the mask."""

    def __init__(self, u, weight=0.0, mask=None):
        self.gu, self.weight, self.mask = gradient(u), weight, 1.0 if mask is None else np.fft.ifftshift(mask)
        self.q, self.v, self.image = np.zeros_like(self.gu), 0.0, np.zeros_like(u)

    def run(self, steps):
        for _ in range(steps):
            s = divergence(self.q)
            v = self.v + self.mask * np.fft.fft2(s - self.image, norm="ortho")
            if self.weight:
                size = np.abs(v)
                v = v * np.maximum(1 - self.weight / np.maximum(size, 1e-300), 0)
            self.v, self.image = v, np.fft.ifft2(v, norm="ortho").real
            b = self.q + self.gu
            n = np.maximum(np.sqrt((b * b).sum(0)), 1)
            self.q = self.q - (gradient(s - self.image) + b - b / n - self.gu) / 9


def race(problem, solver, plain, steps, chunk):
    """(result of `steps` steps, seconds of a step ours, plain), in turns within one solve, after every chunk; processor time, recording a row of the history included."""
    ours, theirs, last = [], [], [0, time.process_time()]

    def turn(running):
        now, k = time.process_time(), running.iterations - last[0]
        ours.append((now - last[1]) / k)
        if plain is not None:
            began, few = time.process_time(), max(k // 5, 1)
            plain.run(few)
            theirs.append((time.process_time() - began) / few)
        last[:] = running.iterations, time.process_time()

    result = solver(steps).solve(problem, progress=False, record_every=chunk, callback=turn)
    return result, min(ours), min(theirs, default=float("nan"))


def show(name, published, found, ours, plain):
    print(f"| {name:<42} | {published:>12} | {found:>18} | {1e3 * ours:6.2f} | {1e3 * plain:6.2f} | {ours / plain:5.2f} |", flush=True)


def block(n, low, high):
    mask = torch.zeros(n, n, dtype=torch.bool)
    mask[low:high, low:high] = True
    return mask


print(f"| {'case':<42} | {'published':>12} | {'ours':>18} | ours ms | numpy ms | ratio |\n" + "|---" * 6 + "|")
TV, PALM, steps, chunk = pl.TotalVariation(), (lambda k: pl.PGD(k, step=1 / 9)), 100 if quick else 1000, 20 if quick else 50
n = 96 if quick else 400
try:
    from skimage.color import rgb2gray
    from skimage.data import astronaut, shepp_logan_phantom
    from skimage.transform import resize
except ImportError:
    print("skipped: Shepp-Logan and the astronaut need scikit-image")
else:
    space = pl.Space((n, n), torch.float64)
    logan, man = (torch.tensor(resize(u, (n, n), anti_aliasing=True) if u.shape != (n, n) else u) for u in (shepp_logan_phantom(), rgb2gray(astronaut())))
    F = pl.FourierTransform
    for name, published, u, mask in (("Shepp-Logan, all of k-space", 101.7771, logan, None),
                                     ("Shepp-Logan, block [135:265]^2", 72.7867, logan, block(n, 27 * n // 80, 53 * n // 80)),
                                     ("astronaut, block [100:300]^2", 255.15003684600313, man, block(n, n // 4, 3 * n // 4))):
        problem = pl.SourceCondition(F(space, mask), TV, u)
        solver = PALM if problem.reduced else (lambda k: pl.BCD(k, step="lipschitz"))
        result, ours, plain = race(problem, solver, Plain(u.numpy(), mask=None if mask is None else mask.numpy()), steps, chunk)
        show(name, f"{published:.4f}", f"{float(result.solution.norm):.4f}", ours, plain)
    centre = block(n, n // 2, n // 2 + 1)
    problem = pl.SamplingDesign(F(space), TV, logan, weight=0.1 / 9, forced=centre)
    result, ours, plain = race(problem, PALM, Plain(logan.numpy(), 0.1 / 9), steps - 1, chunk)
    show("Shepp-Logan, optimal sampling: samples", "14553", f"{result.solution.samples}", ours, plain)
    problem = pl.SamplingDesign(F(space), TV, man, weight=0.24 / 9, forced=centre)
    result, ours, plain = race(problem, PALM, Plain(man.numpy(), 0.24 / 9), steps - 1, chunk)       # v of the last step belongs to the q before it
    found = result.solution
    show("astronaut, optimal sampling: |v|", "205.9323", f"{float(found.norm):.4f}", ours, plain)
    show("astronaut, optimal sampling: samples", "38262", f"{found.samples}", ours, plain)
    problem = pl.SourceCondition(F(space, found.mask), TV, man, start=PALM(steps).solve(problem, resume=result, progress=False, record_every=chunk).x)
    result, ours, plain = race(problem, PALM, Plain(man.numpy(), mask=found.mask.numpy()), steps - 1, chunk)
    show("astronaut, refined on that mask: |v|", "302.4659", f"{float(result.solution.norm):.4f}", ours, plain)

    if not quick:
        u = torch.tensor(resize(shepp_logan_phantom(), (256, 256), anti_aliasing=True))
        problem = pl.SamplingDesign(pl.HadamardTransform(pl.Space(u.shape, torch.float64), 0), TV, u, weight=3 / 9 / 16)
        result, ours, _ = race(problem, PALM, None, 2499, 50)
        found = result.solution                                                # the authors' coefficients are not normalised: 16 = sqrt(256) times ours
        show("Shepp-Logan 256^2, Hadamard columns: |v|", "900.0609", f"{16 * float(found.norm):.4f}", ours, float("nan"))
        show("Shepp-Logan 256^2, Hadamard: samples", "4713", f"{found.samples}", ours, float("nan"))

    def alone(transforms, repeats=15):
        times = []
        for _ in range(repeats):
            began = time.process_time()
            transforms()
            times.append(time.process_time() - began)
        return 1e3 * min(times)

    axes, x = {"dim": (-2, -1), "norm": "ortho"}, man.numpy()
    print(f"\ntransforms alone, ms a pair: torch's real ones {alone(lambda: torch.fft.irfftn(torch.fft.rfftn(man, **axes), s=man.shape, **axes)):.2f}, "
          f"numpy's complex ones, of the plain version, {alone(lambda: np.fft.ifft2(np.fft.fft2(x, norm='ortho'), norm='ortho')):.2f}")
