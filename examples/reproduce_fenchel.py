"""Fenchel lifted networks (Gu, Askari & El Ghaoui, AISTATS 2020) on MNIST: `python examples/reproduce_fenchel.py [--passes N] [--lenet N] [--output DIR] [--quick]`.

784-300-10 and LeNet-5 (32 x 32, average pooling, 6 and 16 filters), ReLU, cross-entropy, as in the authors' published scripts. There groups of 500 samples start from the
forward pass, L-BFGS-B finds x, then L-BFGS the weights with a proximal term (10 to 100) |theta - theta_k|^2, one alternation a group. Here:

* BCD over groups of samples: the same alternation, with three proximal gradient steps in place of L-BFGS-B and the one-layer regression's majoriser in place of L-BFGS. Groups
  of 500 as there, and of 100, which learn more in a pass: theta moves once a group.
* ISGM with three sweeps in the plain metric: the same subproblem, x and theta of every layer in turn, nothing kept between the visits of a group.
* ISGM with one sweep in Adam's metric: it costs one back-propagation and nearly takes its step. It is shown for orientation, as is back-propagation itself.

What is not the same: the authors weigh the loss 10 times in the x-step and give every layer its own proximal term, here one rho and one tau serve all layers and both steps;
they take 10000 groups, 83 passes, here it is a few passes; images are standardised here. On LeNet-5 only ISGM with one sweep is run: the others would take minutes a pass, for
the bound of every convolution is found by power iteration. The published accuracies are recalled, not read from the paper.
For ReLU the Fenchel penalty is the lifted Bregman penalty; the two rows of BCD agree, and "bregman" is left out below. "mac" and "lifted" run under the same settings.
Accuracies are the forward network's, on the test images.
Without MNIST (PARALIFT_DATA, the cache or a download), and with `--quick`, scikit-learn's digits are used: 64-300-10, and LeNet-5 on the digits enlarged to 32 x 32.
"""

import argparse
import copy
import time
from pathlib import Path

import torch
from torch import nn

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--passes", type=int, default=3, help="over the data, 784-300-10")
parser.add_argument("--lenet", type=int, default=2, help="passes of LeNet-5; 0 leaves it out")
parser.add_argument("--output", default="output")
parser.add_argument("--quick", action="store_true", help="the digits, 2 passes and 1")
arguments = parser.parse_args()
if arguments.quick:
    arguments.passes, arguments.lenet = 2, 1
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

try:
    (x, y), (xt, yt) = pl.data.digits() if arguments.quick else pl.data.mnist()
except FileNotFoundError:
    (x, y), (xt, yt) = pl.data.digits()
x, xt = (x - x.mean()) / x.std(), (xt - x.mean()) / x.std()
side, size, few = round(x.shape[1] ** 0.5), *((500, 100) if len(x) > 10000 else (100, 50))
names = (f"{side * side}-300-10", "LeNet-5")
PUBLISHED = {names[0]: "about 98", names[1]: "about 99"} if side == 28 else {}


def mlp():
    torch.manual_seed(0)
    return pl.networks.MLP(side * side, 300, 10)


def lenet():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
                         nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))


def padded(images):
    """(n, 1, 32, 32): MNIST with a margin of 2, the digits enlarged."""
    images = images.view(-1, 1, side, side)
    return nn.functional.pad(images, (2, 2, 2, 2), value=float(images.min())) if side == 28 else nn.functional.interpolate(images, size=32, mode="bilinear")


def back_propagation(network, x, y, xt, yt, passes):
    """Test accuracy and processor seconds after each pass, torch's Adam, groups of the same size, the same falling step."""
    network, loss, found, began, k = copy.deepcopy(network), nn.CrossEntropyLoss(), [], time.process_time(), 0
    optimizer = torch.optim.Adam(network.parameters(), lr=STEP, fused=True)
    for epoch in range(passes):
        for i in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(few):
            optimizer.param_groups[0]["lr"] = STEP * max(0.02, 1 - k * few / (passes * len(x)))
            optimizer.zero_grad(set_to_none=True)
            loss(network(x[i]), y[i]).backward()
            optimizer.step()
            k += 1
        with torch.no_grad():
            found.append((100 * float((network(xt).argmax(1) == yt).double().mean()), time.process_time() - began))
    return found


def lifted(network, penalty, rho, solver, x, y, xt, yt):
    """The same of a lifted run; None where it diverged in its first pass."""
    found, began = [], time.process_time()
    problem = pl.LiftedTraining(network, x, y, penalty=penalty, rho=rho, validation=(xt, yt))
    solver.solve(problem, progress=False, callback=lambda result: found.append((100 * result.history["accuracy"][-1], time.process_time() - began)))
    return found


def show(network, method, penalty, found):
    curves[network, method, penalty] = found
    accuracy, seconds = found[-1] if found else (float("nan"), float("nan"))
    published = PUBLISHED.get(network, "-") if penalty == "fenchel" else "-"
    print(f"| {network:<11} | {method:<38} | {penalty:<8} | {published:<9} | {accuracy:8.2f} | {len(found):6d} | {seconds:7.1f} |", flush=True)


STEP, curves = 3e-3, {}
print(f"test accuracy (%), {len(x)} samples\n")
print(f"| {'network':<11} | {'method':<38} | {'penalty':<8} | published | measured | passes | seconds |\n|---|---|---|---|---|---|---|")
passes = arguments.passes
METHODS = {f"BCD, groups of {size}": (1.0, lambda n: pl.BCD(n, batch_size=size, inner_steps=3, tau=10.0), ("fenchel",)),
           f"BCD, groups of {few}": (1.0, lambda n: pl.BCD(n, batch_size=few, inner_steps=3, tau=10.0), ("fenchel", "bregman", "mac", "lifted")),
           f"ISGM, 3 sweeps, groups of {few}": (2.0, lambda n: pl.ISGM(n, batch_size=few, sweeps=3, metric="plain", step=3.0, schedule="linear"), ("fenchel", "mac", "lifted")),
           f"ISGM, 1 sweep, groups of {few}, Adam": (2.0, lambda n: pl.ISGM(n, batch_size=few, step=STEP, schedule="linear"), ("fenchel", "mac", "lifted"))}
data = (x, y, xt, yt)
for method, (rho, solver, penalties) in METHODS.items():
    for penalty in penalties:
        show(names[0], method, penalty, lifted(mlp(), penalty, rho, solver(passes), *data))
show(names[0], "back-propagation, Adam", "-", back_propagation(mlp(), *data, passes))

if arguments.lenet:
    data = (padded(x), y, padded(xt), yt)
    method, (rho, solver, penalties) = list(METHODS.items())[-1]
    for penalty in penalties:
        show(names[1], method, penalty, lifted(lenet(), penalty, rho, solver(arguments.lenet), *data))
    show(names[1], "back-propagation, Adam", "-", back_propagation(lenet(), *data, arguments.lenet))

from matplotlib.figure import Figure  # noqa: E402

shown = [name for name in names if any(key[0] == name for key in curves)]
fig = Figure(figsize=(6.5 * len(shown), 4.8), layout="constrained")
for name, ax in zip(shown, fig.subplots(1, len(shown), squeeze=False)[0]):
    styles = dict(zip([*METHODS, "back-propagation, Adam"], ("o-", "o--", "s-.", "^:", "D-")))
    for (network, method, penalty), found in curves.items():
        if network == name and found and penalty != "bregman":
            grey = {"fenchel": "black", "-": "black", "mac": "0.45", "lifted": "0.7"}[penalty]
            ax.plot(range(1, len(found) + 1), [100 - a for a, _ in found], styles[method], color=grey, markersize=4, linewidth=2.5 if penalty == "-" else 1.2,
                    label=f"{method.replace(', groups of', '')}{f', {penalty}' if penalty != '-' else ''}")
    ax.set(title=f"{name}, test error by pass", xlabel="passes over the data", ylabel="test error (%)", yscale="log")
    ax.yaxis.set_major_formatter("{x:g}"), ax.yaxis.set_minor_formatter("{x:g}")
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=7, ncols=3, handlelength=3, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
fig.savefig(output / "reproduce_fenchel.png", dpi=120)
print(f"\nfigure: {output / 'reproduce_fenchel.png'}")
