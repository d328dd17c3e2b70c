"""A data set and auxiliary variables of three times the memory: `python benchmarks/memory.py [--cap 512] [--ratio 3]`.

A process whose private memory is limited (RLIMIT_DATA, MiB; the interpreter and torch included) trains by BCD over groups with images in a mapped file and x in
`Storage(folder=...)`; beside it the same run with everything in memory and no limit, and the one with the limit and everything in memory, which must fail.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time

import torch

import paralift as pl

WIDTH, INPUTS = 256, 784


def train(kind, samples, cap, folder):
    if cap:
        resource.setrlimit(resource.RLIMIT_DATA, (cap << 20, cap << 20))
    torch.manual_seed(0)
    mapped = torch.from_file(f"{folder}/images", shared=True, size=samples * INPUTS, dtype=torch.float32).view(samples, INPUTS)
    images = mapped if "files" in kind else mapped.clone()
    network = torch.nn.Sequential(torch.nn.Linear(INPUTS, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 10))
    problem = pl.LiftedTraining(network, images, torch.load(f"{folder}/labels", weights_only=True))
    storage = {"files": pl.Storage(folder=folder), "files, bfloat16": pl.Storage(torch.bfloat16, folder), "memory": None}[kind]
    began = time.perf_counter()
    result = pl.BCD(1, batch_size=1000, storage=storage).solve(problem, progress=False)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - began:.1f} s a pass, E {result.objective:.4f}, at most {resident:.0f} MiB resident, mapped pages included")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cap", type=int, default=512, help="MiB")
    parser.add_argument("--ratio", type=float, default=3.0, help="data and x together, over the cap")
    parser.add_argument("--child", nargs=4)
    parser.add_argument("--folder", default=None, help="on a disk")
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.child:
        kind, samples, cap, folder = a.child
        return train(kind, int(samples), int(cap), folder)
    samples = int(a.ratio * (a.cap << 20) / 4 / (INPUTS + 2 * WIDTH))
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        generator = torch.Generator().manual_seed(0)
        images = torch.from_file(f"{folder}/images", shared=True, size=samples * INPUTS, dtype=torch.float32).view(samples, INPUTS)
        labels, means = torch.randint(10, (samples,), generator=generator), torch.randn(10, INPUTS, generator=generator)
        for rows in torch.arange(samples).split(4096):
            images[rows] = means[labels[rows]] + 4 * torch.randn(len(rows), INPUTS, generator=generator)
        torch.save(labels, f"{folder}/labels")
        print(f"{samples} samples: data {images.nbytes / 2**20:.0f} MiB, x {samples * 2 * WIDTH * 4 / 2**20:.0f} MiB, limit {a.cap} MiB")
        for kind, cap in (("memory", 0), ("files", a.cap), ("files, bfloat16", a.cap), ("memory", a.cap)):
            run = subprocess.run([sys.executable, __file__, "--child", kind, str(samples), str(cap), folder], capture_output=True, text=True)
            last = (run.stdout or run.stderr).strip().splitlines()[-1]
            print(f"{kind + (', limited' if cap else ''):<26} {last if run.returncode == 0 else 'fails: ' + last[:90]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
