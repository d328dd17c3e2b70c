"""ISGM against torch's own loop with fused Adam: MNIST, 784-256-256-10, batch 128, one thread, same weights and data order, alternating.

`python benchmarks/mnist_mlp.py [--quick]` prints a table; MNIST comes from PARALIFT_DATA or the cache, digits take its place in quick mode without it.
"""

import argparse
import copy
import statistics
import time

import torch
from torch import nn

import paralift as pl

parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true")
quick = parser.parse_args().quick
torch.set_num_threads(1)
epochs, seeds, batch = (2, 1, 128) if quick else (5, 3, 128)
try:
    (x, y), (xt, yt) = pl.data.mnist()
except FileNotFoundError:
    (x, y), (xt, yt) = pl.data.digits()
mean, deviation = x.mean(), x.std()
x, xt = (x - mean) / deviation, (xt - mean) / deviation


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def accuracy(net):
    with torch.no_grad():
        return 100 * float((net(xt).argmax(1) == yt).double().mean())


class Torch:
    def __init__(self, seed):
        self.net, self.seed, self.epoch = network(seed), seed, 0
        self.optimizer, self.loss = torch.optim.Adam(self.net.parameters(), lr=1e-3, fused=True), nn.CrossEntropyLoss()

    def run(self):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))
        began = time.perf_counter()
        for k in range(len(x) // batch):
            i = order[k * batch:(k + 1) * batch]
            self.optimizer.zero_grad()
            self.loss(self.net(x[i]), y[i]).backward()
            self.optimizer.step()
        self.epoch += 1
        return time.perf_counter() - began, accuracy(self.net)


class Lifted:
    def __init__(self, seed):
        self.problem, self.result, self.epoch, self.seed = pl.LiftedTraining(network(seed), x, y), None, 0, seed

    def run(self):
        self.epoch += 1
        began = time.perf_counter()
        self.result = pl.ISGM(self.epoch, batch_size=batch, seed=self.seed).solve(self.problem, resume=self.result)
        return time.perf_counter() - began, accuracy(self.result.network)


rows, ratios = [[] for _ in range(epochs)], []
for seed in range(seeds):
    a, b = Torch(seed), Lifted(seed)
    for epoch in range(epochs):
        first, second = (a, b) if epoch % 2 else (b, a)
        out = {id(first): first.run(), id(second): second.run()}
        rows[epoch].append((out[id(a)][1], out[id(b)][1]))
        ratios.append(out[id(b)][0] / out[id(a)][0])
print("epoch   torch fused Adam   ISGM, one sweep   (test accuracy %, mean over seeds)")
for epoch, row in enumerate(rows):
    print(f"{epoch + 1:>5}   {statistics.mean(r[0] for r in row):16.2f}   {statistics.mean(r[1] for r in row):15.2f}")
print(f"time per epoch, ISGM / torch: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} pairs")

print("\nlargest step that still trains (accuracy above 80 % after one pass on 12800 samples)")
net, few = network(0), slice(0, 12800)
problem = pl.LiftedTraining(net, x[few], y[few], validation=(xt, yt))
steps = [0.1, 1.0, 10.0] if quick else [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


def sgd(step):
    net_ = copy.deepcopy(net)
    optimizer, loss = torch.optim.SGD(net_.parameters(), lr=step), nn.CrossEntropyLoss()
    order = torch.randperm(len(x[few]), generator=torch.Generator().manual_seed(0))
    for i in order.split(batch):
        optimizer.zero_grad()
        loss(net_(x[few][i]), y[few][i]).backward()
        optimizer.step()
    return accuracy(net_)


print(f"{'':<24}" + "".join(f"{s:>8g}" for s in steps))
print(f"{'SGD':<24}" + "".join(f"{sgd(s):8.1f}" for s in steps))
for sweeps in (1, 3, 10):
    out = [100 * pl.ISGM(1, batch_size=batch, step=s, sweeps=sweeps, metric="plain").solve(problem).history.get("accuracy", [0])[-1] for s in steps]
    print(f"{f'ISGM, {sweeps} sweeps':<24}" + "".join(f"{v:8.1f}" for v in out))

theta = problem.start_theta()
sub = problem.restrict(torch.arange(batch), theta, 1.0)
print("\nE_S + |theta - theta_k|^2/(2 tau), tau = 1, after 0, 1, 3, 10 sweeps:",
      " ".join(f"{float(v):.4f}" for v in (sub.value(sub.forward(theta)), *(sub.implicit_energy(theta, 1.0, s) for s in (1, 3, 10)))))
point = sub._palm(theta, 1.0, 3)[1]
sub.seed = 0
print("|x - sigma(z)| / |sigma(z)| after 3 sweeps, default rho:", {f"layer {l}": round(v, 4) for l, v in problem.restrict(torch.arange(batch)).penalty_residuals(point).items()})
