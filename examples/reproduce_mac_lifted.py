"""The method of auxiliary coordinates (MAC) and lifted networks on MNIST: `python examples/reproduce_mac_lifted.py [--passes N] [--output DIR] [--quick]`.

MAC (Carreira-Perpinan & Wang, AISTATS 2014) alternates single-layer fits of the weights with steps on every sample's auxiliary coordinates x, while the weight rho of the
penalty |x - sigma(z)|^2 / 2 grows; at the end x is dropped and the last layer refitted to the forward network's features. Lifted networks (Askari, Negiar, Sambharya & El
Ghaoui, 2018) do the same with |x - z|^2 / 2, x >= 0, and a fixed weight, and their authors recommend the result as a start for back-propagation. Here, on 784-300-10 with ReLU
and cross-entropy:

* block coordinate descent on all samples (`BCD()`), as in both papers;
* block coordinate descent over groups of 100 samples (`BCD(batch_size=100)`), where theta moves once a group, at one rho, or along the path rho = 1, then 10;
* for each: the forward network, the network with its last layer refitted, and a pass of back-propagation (torch's Adam) from there, beside one from the random start.

What is not the same: MAC's own experiments are autoencoders (USPS, COIL) with one Gauss-Newton step on each x; here the steps on x are proximal gradient steps, and the
penalties run on the MNIST classifier of the lifted papers. No accuracy of either paper on MNIST could be read, so the table has no published figure.
For ReLU "fenchel" is "bregman"; the figure published for it is in reproduce_fenchel.py.
Without MNIST (PARALIFT_DATA, the cache or a download), and with `--quick`, scikit-learn's digits are used.
"""

import argparse
import copy
import time
from pathlib import Path

import torch
from torch import nn

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--passes", type=int, default=3, help="over the data, for each lifted run")
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="the digits, 3 passes, fewer rows")
arguments = parser.parse_args()
passes = 3 if arguments.quick else arguments.passes
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

try:
    (x, y), (xt, yt) = pl.data.digits() if arguments.quick else pl.data.mnist()
except FileNotFoundError:
    (x, y), (xt, yt) = pl.data.digits()
x, xt = (x - x.mean()) / x.std(), (xt - x.mean()) / x.std()
few = 100 if len(x) > 10000 else 50
torch.manual_seed(0)
start = nn.Sequential(nn.Linear(x.shape[1], 300), nn.ReLU(), nn.Linear(300, 10))
PATH = {1.0: max(1, passes // 3), 10.0: passes - max(1, passes // 3)}
RUNS = [("all samples", "mac", {1.0: passes}), ("all samples", "lifted", {0.1: passes}), ("groups", "mac", PATH), ("groups", "mac", {1.0: passes}),
        ("groups", "lifted", {0.1: passes}), ("groups", "bregman", PATH)]
RUNS = RUNS[2:5] if arguments.quick else RUNS


def accuracy(network):
    with torch.no_grad():
        return 100 * float((network(xt).argmax(1) == yt).double().mean())


def lifted(penalty, path, **options):
    """(the forward network, its test accuracies by pass); each rho starts from the forward pass of the network found so far."""
    network, found = start, []
    for rho, count in path.items():
        result = pl.BCD(count, inner_steps=3, **options).solve(pl.LiftedTraining(network, x, y, penalty=penalty, rho=rho, validation=(xt, yt)), progress=False)
        network, found = result.network, found + [100 * a for a in result.history.get("accuracy", [])]
    return network, found


def refitted(network):
    """The last layer fitted to the hidden layer's outputs, which stay: a convex problem."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        features = network[:2](x)
    network[2] = pl.ISGM(2, batch_size=few, step=1e-3, schedule="linear").solve(pl.LiftedTraining(network[2:], features, y), progress=False).network[0]
    return network


def trained(network, epochs, step=1e-3):
    """Back-propagation with torch's Adam, the step falling to 0."""
    network, loss, k = copy.deepcopy(network).train(), nn.CrossEntropyLoss(), 0
    optimizer = torch.optim.Adam(network.parameters(), lr=step, fused=True)
    for epoch in range(epochs):
        for i in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(few):
            optimizer.param_groups[0]["lr"] = step * max(0.02, 1 - k * few / (epochs * len(x)))
            optimizer.zero_grad(set_to_none=True)
            loss(network(x[i]), y[i]).backward()
            optimizer.step()
            k += 1
    return network


print(f"test accuracy (%), {x.shape[1]}-300-10, {len(x)} samples, groups of {few}, {passes} passes\n")
print(f"| {'BCD on':<12} | {'penalty':<8} | {'rho':<6} | forward network | last layer refitted | then a pass of Adam | seconds |\n|---|---|---|---|---|---|---|")
curves, bars = {}, {}
for on, penalty, path in RUNS:
    began = time.process_time()
    network, found = lifted(penalty, path, **({} if on == "all samples" else {"batch_size": few, "tau": 10.0}))
    seconds, again = time.process_time() - began, refitted(network)
    values = (accuracy(network), accuracy(again), accuracy(trained(again, 1)))
    rho = "1, 10" if len(path) > 1 else f"{next(iter(path)):g}"
    curves[on, penalty, rho], bars[f"{penalty}, rho {rho}\n{on}"] = found, values
    print(f"| {on:<12} | {penalty:<8} | {rho:<6} | {values[0]:15.2f} | {values[1]:19.2f} | {values[2]:19.2f} | {seconds:7.1f} |", flush=True)
reference = {epochs: (accuracy(trained(start, epochs)),) for epochs in (1, passes)}
print("\nfrom the random start, back-propagation with Adam: " + ", ".join(f"{a:.2f} after {epochs} pass{'es' * (epochs > 1)}" for epochs, (a,) in reference.items()))

from matplotlib.figure import Figure  # noqa: E402

fig = Figure(figsize=(13, 4.4), layout="constrained")
left, right = fig.subplots(1, 2, width_ratios=(1, 1.5))
greys = {"mac": "0.0", "lifted": "0.6", "bregman": "0.35"}
for (on, penalty, rho), found in curves.items():
    style = {"all samples": ":", "groups": "-"}[on] if "," not in rho else "--"
    left.plot(range(1, len(found) + 1), found, style, marker={"mac": "o", "lifted": "s"}.get(penalty, "^"), color=greys[penalty], markersize=4, label=f"{penalty}, rho {rho}, {on}")
left.set(title="forward network, by pass", xlabel="passes over the data", ylabel="test accuracy (%)")
left.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
left.legend(fontsize=7, handlelength=4, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
low = max(0, min(reference[1][0], *(min(v) for v in bars.values())) - 2)
for k, (label, grey) in enumerate((("forward network", "0.85"), ("last layer refitted", "0.6"), ("then a pass of Adam", "0.2"))):
    right.bar([i + 0.27 * (k - 1) for i in range(len(bars))], [v[k] for v in bars.values()], 0.27, color=grey, edgecolor="black", label=label)
right.axhline(reference[1][0], color="black", linestyle="--", linewidth=1, label="a pass of Adam from the random start")
right.set_xticks(range(len(bars)), bars, fontsize=6.5)
right.set(ylim=(low, 100), ylabel="test accuracy (%)", title=f"after {passes} passes, and what it is worth as a start")
right.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
for ax in (left, right):
    ax.grid(alpha=0.3)
fig.savefig(output / "reproduce_mac_lifted.png", dpi=120)
print(f"figure: {output / 'reproduce_mac_lifted.png'}")
