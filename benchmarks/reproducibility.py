"""What changes a result, and by how much: `python benchmarks/reproducibility.py [--quick]` prints the table of doc/reproducibility.md.

Digits, 64-128-128-10 ReLU, ISGM with one sweep in Adam's metric, batch 32. Each row compares two runs that differ in one thing: |theta - theta'| / |theta'| over all
parameters after 1 and after 10 passes, and the difference of the test accuracies after 10, in percent points.
"""

import tempfile
from pathlib import Path

import torch
from peers import accuracy, options

import paralift as pl

quick = options(__doc__).quick
PASSES = (1, 2) if quick else (1, 10)
(x, y), (xt, yt) = pl.data.digits()
xt = xt.double()


def run(passes, dtype=torch.float32, threads=1, workers=None, resumed=False, products=None, seed=0, accumulate=1, nudged=False):
    """The trained network, in float64."""
    torch.manual_seed(0)
    network = pl.networks.MLP(64, 128, 128, 10).to(dtype)
    if nudged:                                                       # one weight by one unit in its last place
        with torch.no_grad():
            weight = network[0].weight[0, 20]
            weight.copy_(torch.nextafter(weight, torch.tensor(1.0)))
    problem = pl.LiftedTraining(network, x.to(dtype), y, products=products)
    solver = lambda n: pl.ISGM(n, batch_size=32, seed=seed, accumulate=accumulate)
    torch.set_num_threads(threads)
    try:
        if resumed:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "checkpoint"
                solver(max(1, passes // 2)).solve(problem, checkpoint=path, progress=False)
                return solver(passes).solve(problem, resume=path, progress=False).network.double()
        return solver(passes).solve(problem, workers=workers, progress=False).network.double()
    finally:
        torch.set_num_threads(1)


def distance(a, b):
    flat = lambda network: torch.cat([p.detach().flatten() for p in network.parameters()])
    return float((flat(a) - flat(b)).norm() / flat(b).norm())


double, flushed = {"dtype": torch.float64}, pl.distributed.Flushed()
data, layers = pl.Workers(data=2, layers=1, schedule=flushed), pl.Workers(data=1, layers=2, schedule=flushed)
ROWS = (("run again", {}, {}),
        ("stopped half way, resumed from the file", {"resumed": True}, {}),
        ("two threads", {"threads": 2}, {}),
        ("the minibatch in two parts", {"accumulate": 2}, {}),
        ("two workers, samples", {"workers": data}, {}),
        ("two workers, layers, flushed", {"workers": layers}, {}),
        ("float64: two workers, samples against layers", {**double, "workers": data}, {**double, "workers": layers}),
        ("float64: two workers, samples, against none", {**double, "workers": data}, double),
        ("one weight moved by 1 ulp", {"nudged": True}, {}),
        ("float32 against float64", {}, double),
        ("products with residuals in bfloat16", {"products": torch.bfloat16}, {}),
        ("all in bfloat16", {"dtype": torch.bfloat16}, {}),
        ("another seed: order of the samples", {"seed": 1}, {}))
print(f"\n| what differs | after {PASSES[0]} pass | after {PASSES[1]} passes | accuracy (%) | against (%) |\n|---|---|---|---|---|")
for name, one, other in ROWS:
    found = []
    for passes in PASSES:
        a, b = run(passes, **one), run(passes, **other)
        found.append(distance(a, b))
    shown = " | ".join("0" if d == 0 else f"{d:.1e}" for d in found)
    print(f"| {name} | {shown} | {accuracy(a, xt, yt):.2f} | {accuracy(b, xt, yt):.2f} |", flush=True)
