"""Lifted training and reconstructions on one GPU: `python benchmarks/gpu.py [--rounds 5] [--minibatches 40] [mlp wide resnet transformer imaging inversion]`.

Training: milliseconds a minibatch of ISGM (one sweep, Adam's metric) beside torch's own loop with AdamW (foreach), random data that lie on the device, alternating, medians and
ranges of the rounds; peak memory of both. float32 (TF32 products where `--tf32`) and bfloat16 for the wide network, and the share of the device's measured rate of products.
Imaging and inversion: milliseconds a step on the GPU and on the CPU (all cores that torch takes). That both compute the same: tests/hardening/test_gpu_numbers.py.
"""

import argparse
import platform
import statistics
import time

import torch
from torch import nn

import paralift as pl


def clock(run):
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def mlp(*widths):
    return lambda: nn.Sequential(*[m for a, b in zip(widths, widths[1:]) for m in (nn.Linear(a, b), nn.ReLU())][:-1])


# name: (network, inputs of n samples, targets of n samples, minibatch)
NETWORKS = {
    "mlp": ("784-1500-1500-1500-10", mlp(784, 1500, 1500, 1500, 10), lambda n: torch.randn(n, 784), lambda n: torch.randint(10, (n,)), 500),
    "wide": ("8 layers of 4096", mlp(*[4096] * 9), lambda n: torch.randn(n, 4096), lambda n: torch.randint(4096, (n,)), 4096),
    "resnet": ("ResNet-20, 32 x 32", lambda: pl.networks.ResNet(3, 10), lambda n: torch.randn(n, 3, 32, 32), lambda n: torch.randint(10, (n,)), 256),
    "transformer": ("causal transformer, 8 blocks, 512 wide, 256 tokens", lambda: pl.networks.CausalTransformer(256, 512, 8, 8, 256), lambda n: torch.randint(256, (n, 256)),
                    lambda n: torch.randint(256, (n, 256)), 32),
}


def product_rate(dtype, n=8192):
    """Floating-point operations a second of a square matrix product."""
    a, b = torch.randn(n, n, device="cuda", dtype=dtype), torch.randn(n, n, device="cuda", dtype=dtype)
    a @ b
    return 2 * n**3 / statistics.median(clock(lambda: a @ b) for _ in range(5))


def train(name, a, dtype):
    title, make, inputs, targets, batch = NETWORKS[name]
    torch.manual_seed(0)
    n = batch * a.minibatches
    x, y = inputs(n), targets(n)
    x, y = (x.to(dtype) if x.is_floating_point() else x).cuda(), y.cuda()
    network, plain = make().to("cuda", dtype), make().to("cuda", dtype)
    problem = pl.LiftedTraining(network, x, y)
    optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=0.01, foreach=True)

    def torchs():
        order = torch.randperm(n, device="cuda")
        for rows in order.split(batch):
            z = plain(x[rows])
            loss = nn.functional.cross_entropy(z.flatten(0, -2), y[rows].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    runs = {"torch, AdamW": torchs, "ISGM, one sweep": lambda: pl.ISGM(1, batch, weight_decay=0.01).solve(problem, progress=False)}
    if name in ("mlp", "wide"):                                         # exact implicit steps, each with a factorisation
        runs["ISGM, three sweeps"] = lambda: pl.ISGM(1, batch, weight_decay=0.01, sweeps=3).solve(problem, progress=False)
    times, peaks = {kind: [] for kind in runs}, {}
    for kind, run in runs.items():                                     # warm
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        peaks[kind] = (torch.cuda.max_memory_allocated() - before) / 2**20
    for _ in range(a.rounds):
        for kind, run in runs.items():
            times[kind].append(1e3 * clock(run) / a.minibatches)
    parameters = sum(p.numel() for p in network.parameters())
    print(f"\n{title}, {str(dtype).removeprefix('torch.')}: {parameters:,} parameters, minibatches of {batch}")
    first = statistics.median(times["torch, AdamW"])
    for kind, own in times.items():
        ratios = [t / s for t, s in zip(own, times["torch, AdamW"])]
        share = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of torch's"
        print(f"  {kind:<20} {statistics.median(own):8.2f} ms ({min(own):.2f} to {max(own):.2f}), {share}, peak {peaks[kind]:.0f} MiB", flush=True)
    if name == "wide":
        least = 6 * parameters * batch / product_rate(dtype)
        print(f"  three products a layer at the rate of one of 8192 x 8192: {1e3 * least:.2f} ms, {1e3 * least / first:.2f} of torch's, "
              f"{1e3 * least / statistics.median(times['ISGM, one sweep']):.2f} of ISGM's")


def steps(title, make, solver, a):
    """Milliseconds a step on both devices."""
    found = {}
    for device in ("cuda", "cpu"):
        problem, few, many = make(device), solver(2), solver(12)
        few.solve(problem, progress=False, record_every=100)
        rounds = a.rounds if device == "cuda" else 1
        found[device] = statistics.median(clock(lambda: many.solve(problem, progress=False, record_every=100)) - clock(lambda: few.solve(problem, progress=False, record_every=100))
                                          for _ in range(rounds)) / 10
    print(f"  {title:<72} {1e3 * found['cuda']:9.2f} ms, CPU {1e3 * found['cpu']:9.1f} ms, {found['cpu'] / found['cuda']:.0f} times", flush=True)


def imaging(a):
    print(f"\na step; the CPU with {torch.get_num_threads()} threads")

    def cartesian(device):
        image, maps, kspace = pl.data.phantom((320, 320), coils=12, noise=0.01)
        mask = (torch.rand(320, 320, generator=torch.Generator().manual_seed(0)) < 0.25).to(device)
        return pl.Reconstruction(pl.MRI(mask, maps.to(device)), mask * kspace.to(device), regulariser=0.01 * pl.TotalVariation())

    def radial(device):
        image, maps, _ = pl.data.phantom((256, 256), coils=8)
        A = pl.MRI(None, maps.to(device), trajectory=pl.radial_trajectory(64, 512).to(device))
        return pl.Reconstruction(A, A(image.to(device)), regulariser=1e-3 * pl.L2NormSquared())

    def emission(storage):
        def make(device):
            activity, mu = pl.data.emission_phantom((128, 128))
            A = pl.PET(pl.CylindricalScanner(360, 400.0, 180), (128, 128), 2.0, attenuation=mu.to(device), resolution=4.0, storage=storage, device=device)
            counts = torch.poisson(A(activity.to(device)).cpu(), generator=torch.Generator().manual_seed(0)).to(device)
            return pl.Reconstruction(A, counts, "poisson")

        return make

    steps("MRI, 320 x 320, 12 coils, 4x, total variation: PDHG", cartesian, lambda n: pl.PDHG(n), a)
    steps("MRI, 320 x 320, 12 coils, 4x, total variation: FISTA", cartesian, lambda n: pl.FISTA(n), a)
    steps("MRI, radial, 256 x 256, 8 coils, 64 spokes: conjugate gradients", radial, lambda n: pl.ConjugateGradient(n), a)
    steps("PET, 128 x 128, 360 crystals, stored: MLEM", emission("stored"), lambda n: pl.MLEM(n), a)
    steps("PET, 128 x 128, 360 crystals, matrix-free: MLEM", emission("matrix-free"), lambda n: pl.MLEM(n), a)


def inversion(a):
    def make(device):
        torch.manual_seed(0)
        net = mlp(784, 784, 784, 784)().to(device)
        images = torch.rand(2000, 1, 28, 28, device=device)
        y = net(images.flatten(1)).detach()
        return pl.LiftedInversion(nn.Sequential(nn.Flatten(), net), y, pl.TotalVariation(), weight=1e-3, shape=(1, 28, 28))

    print()
    steps("inversion of 784-784-784-784, 2000 images, total variation: PGD", make, lambda n: pl.PGD(n, step=1e-3), a)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minibatches", type=int, default=40)
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("parts", nargs="*", default=[])
    a = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a GPU that torch sees (torch.cuda.is_available()); there is none here.")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = a.tf32
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {torch.cuda.get_device_name()}, {'TF32' if a.tf32 else 'float32'} products")
    for part in a.parts or [*NETWORKS, "imaging", "inversion"]:
        if part in NETWORKS:
            train(part, a, torch.float32)
            if part in ("wide", "transformer"):
                train(part, a, torch.bfloat16)
        else:
            {"imaging": imaging, "inversion": inversion}[part](a)


if __name__ == "__main__":
    main()
