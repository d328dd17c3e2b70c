"""50 hidden layers of width 64, plain ReLU, no skips, no normalisation, on MNIST: back-propagation and lifted training, each from torch's default start and from a rescaled one.

`python benchmarks/deep.py [--quick] [--samples 60000] [--passes 5] [--seed 0]` prints the test accuracy of the forward network after each pass, the lifted objective E after
the last (ISGM: the loss, mean over the pass), and the seconds.
The rescaled start is `pl.networks.rescale(network, x[:1000])`: torch's weights, each layer scaled so that its outputs have mean square 1, biases 0.
ISGM takes one sweep at AdamW's step (1e-3, falling linearly), batch 128, no weight decay in either. BCD goes over groups of 500 samples and begins no new pass after a minute.
The last lines say how far the sweep's gradient is from back-propagation's at the rescaled start: a method close to it can add little to it.
"""

import argparse
import copy
import platform
import time

import torch
from peers import BATCH, Lifted, Torch, accuracy, mnist

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few seconds: 20 layers, 2000 samples, two passes")
parser.add_argument("--samples", type=int, default=60000)
parser.add_argument("--passes", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()
depth, samples, passes = (20, 2000, 2) if arguments.quick else (50, arguments.samples, arguments.passes)
torch.set_num_threads(1)
x, y, xt, yt = mnist(samples)


def network(start):
    torch.manual_seed(arguments.seed)
    plain = pl.networks.MLP(x.shape[1], *[64] * depth, 10)
    return pl.networks.rescale(plain, x[:1000]) if start == "rescaled" else plain


class Groups(Lifted):
    """Block coordinate descent over groups of samples, one pass at a time."""

    def __init__(self, net, rho):
        self.problem, self.result = pl.LiftedTraining(net, x, y, rho=rho), None
        self.solver = pl.BCD(passes, batch_size=min(500, len(x) // 4), seed=arguments.seed)


def lifted(rho):
    return lambda net: Lifted(net, x, y, arguments.seed, {"rho": rho}, falling=passes)


METHODS = {"AdamW, back-propagation": lambda net: Torch(net, x, y, arguments.seed, falling=passes), "ISGM, rho 2 (default)": lifted(2.0), "ISGM, rho 100": lifted(100.0),
           "BCD over groups, rho 2": lambda net: Groups(net, 2.0)}


def distance(rho):
    """|g - b| / |b| and the cosine of the angle between them, g the sweep's gradient on 128 samples and b back-propagation's."""
    net = network("rescaled")
    problem = pl.LiftedTraining(net, x, y, rho=rho)
    theta = problem.start_theta()
    gradient = problem.restrict(slice(0, BATCH), theta).explicit_gradient(theta)[1]
    reference = copy.deepcopy(net)
    torch.nn.functional.cross_entropy(reference(x[:BATCH]), y[:BATCH]).backward()
    g, b = (torch.cat([v.flatten() for v in values]) for values in zip(*((gradient[name], p.grad) for name, p in reference.named_parameters())))
    return float((g - b).norm() / b.norm()), float(g @ b / (g.norm() * b.norm()))


print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread")
print(f"{depth} layers of 64, {len(x)} samples, batch {BATCH}, seed {arguments.seed}\n")
print(f"{'test accuracy (%) after pass':<30}{'start':>10}" + "".join(f"{k + 1:>8}" for k in range(passes)) + f"{'objective':>12}{'seconds a pass':>16}")
for start in ("default", "rescaled"):
    for name, make in METHODS.items():
        method, found, spent = make(network(start)), [], 0.0
        while len(found) < passes and not (name.startswith("BCD") and spent > 60):
            began = time.perf_counter()
            method.run()
            spent += time.perf_counter() - began
            found.append(accuracy(method.network, xt, yt))
        objective = f"{method.result.objective:12.4f}" if hasattr(method, "result") else " " * 12
        residual = f"   largest penalty residual {method.result.history['penalty_residual'][-1]:.3f}" if name.startswith("BCD") else ""
        print(f"{name:<30}{start:>10}" + "".join(f"{a:8.2f}" for a in found) + " " * 8 * (passes - len(found)) + objective + f"{spent / len(found):16.1f}{residual}", flush=True)

print()
for rho in (2.0, 100.0):
    relative, cosine = distance(rho)
    print(f"rho {rho:g}: the sweep's gradient g and back-propagation's b at the rescaled start: |g - b| / |b| = {relative:.3f}, cosine {cosine:.3f}")
