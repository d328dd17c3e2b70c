"""Penalties beside each other on the digits: `python benchmarks/choose_a_penalty.py [--quick]` prints the tables of doc/choose_a_penalty.md.

64-128-64-10 with ReLU and with tanh, 1348 samples, batch 32, cross-entropy, one thread; test accuracy of the forward network. Every row of a table has the same starts and the
same order of samples. Times: three passes of each method, taking turns, over three passes of torch's own loop in the same round.
"""

import statistics

import torch
from peers import Torch, accuracy, options, seconds
from torch import nn

import paralift as pl

BATCH = 32
STEPS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
PENALTIES = ("bregman", "mac", "lifted", "contrastive")
ACTIVATIONS = {"ReLU": nn.ReLU, "tanh": nn.Tanh}

quick = options(__doc__).quick
(x, y), (xt, yt) = pl.data.digits()
SEEDS, PASSES, ROUNDS = (1, 2, 2) if quick else (3, 10, 7)


def network(activation, seed):
    torch.manual_seed(seed)
    return pl.networks.MLP(64, 128, 64, 10, activation=ACTIVATIONS[activation])


def problem(activation, penalty, seed, rho=2.0):
    if penalty == "contrastive":
        return pl.ContrastiveTraining(network(activation, seed), x, y, rho=rho)
    return pl.LiftedTraining(network(activation, seed), x, y, penalty=penalty, rho=rho)


def lifted(activation, penalty, seed, passes, rho=2.0, **solver):
    """Test accuracy (%) after so many passes of ISGM; 0 where it diverged."""
    result = pl.ISGM(passes, batch_size=BATCH, seed=seed, **solver).solve(problem(activation, penalty, seed, rho), progress=False)
    return accuracy(result.network, xt, yt) if result.success else 0.0


def back_propagation(activation, seed, passes):
    run = Torch(network(activation, seed), x, y, seed, batch=BATCH)
    for _ in range(passes):
        run.run()
    return accuracy(run.network, xt, yt)


def descent(activation, seed, passes, step):
    """Plain stochastic gradient descent by back-propagation."""
    net, loss = network(activation, seed), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=step)
    for epoch in range(passes):
        for i in torch.randperm(len(x), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).split(BATCH)[:len(x) // BATCH]:
            optimizer.zero_grad()
            loss(net(x[i]), y[i]).backward()
            optimizer.step()
    return accuracy(net, xt, yt)


def largest(train):
    """The largest step that reaches 80 % in three passes, as text; train(step) -> accuracy."""
    found = [step for step in STEPS if train(step) >= 80]
    return f"{max(found):g}" if found else "none"


def relative_times(activation):
    """{penalty, sweeps: time over back-propagation's: median (range)}, and its milliseconds a pass."""
    runs = {(penalty, sweeps): (lambda p=penalty, s=sweeps: lifted(activation, p, 0, 3, sweeps=s)) for penalty in PENALTIES for sweeps in (1, 3)}
    ratios, base = {key: [] for key in runs}, []
    for _ in range(ROUNDS):
        bare = seconds(lambda: back_propagation(activation, 0, 3))[0]
        base.append(bare)
        for key, run in runs.items():
            ratios[key].append(seconds(run)[0] / bare)
    return {key: f"{statistics.median(r):.1f} ({min(r):.1f} to {max(r):.1f})" for key, r in ratios.items()}, 1000 * statistics.median(base) / 3


mean = lambda run: f"{statistics.mean(run(seed) for seed in range(SEEDS)):.1f}"

print(f"\nAccuracy (%) after {PASSES} passes in Adam's metric at 1e-3, one sweep, rho = 2, mean of {SEEDS} seeds; time a pass over back-propagation's: median (range); largest step "
      f"of {', '.join(f'{s:g}' for s in STEPS)} that reaches 80 % in 3 passes, plain metric, seed 0\n")
print("| activation | method | accuracy | time, 1 sweep | time, 3 sweeps | largest step, 1 sweep | 3 sweeps |\n|---|---|---|---|---|---|---|")
for activation in ACTIVATIONS:
    times, milliseconds = relative_times(activation)
    best = largest(lambda step: descent(activation, 0, 3, step))
    print(f"| {activation} | back-propagation | {mean(lambda seed: back_propagation(activation, seed, PASSES))} | 1 ({milliseconds:.0f} ms) | | {best} | |", flush=True)
    for penalty in PENALTIES:
        steps = [largest(lambda step: lifted(activation, penalty, 0, 3, sweeps=sweeps, metric="plain", step=step)) for sweeps in (1, 3)]
        print(f"| {activation} | {penalty} | {mean(lambda seed: lifted(activation, penalty, seed, PASSES))} | {times[penalty, 1]} | {times[penalty, 3]} | {' | '.join(steps)} |", flush=True)

RHO = (0.1, 1.0) if quick else (0.01, 0.1, 1.0, 2.0, 10.0, 100.0)
print(f"\nThe same accuracy by rho, ReLU; one sweep as above, three sweeps in the plain metric at step 1\n\n| penalty | sweeps | {' | '.join(f'rho {rho:g}' for rho in RHO)} |"
      f"\n|---|---|{'---|' * len(RHO)}")
for sweeps, solver in ((1, {}), (3, {"metric": "plain", "step": 1.0})):
    for penalty in PENALTIES[:3]:
        row = [mean(lambda seed: lifted("ReLU", penalty, seed, PASSES, rho, sweeps=sweeps, **solver)) for rho in RHO]
        print(f"| {penalty} | {sweeps} | {' | '.join(row)} |", flush=True)

SWEEPS = (1, 3) if quick else (1, 2, 3, 5, 10)
print(f"\nAccuracy by sweeps: \"bregman\", ReLU, rho = 2, plain metric, 3 passes, mean of {SEEDS} seeds\n\n| step | {' | '.join(f'{s} sweep' + 's' * (s > 1) for s in SWEEPS)} |"
      f"\n|---|{'---|' * len(SWEEPS)}")
for step in (0.3, 3.0) if quick else (0.1, 0.3, 1.0, 10.0, 100.0):
    row = [mean(lambda seed: lifted("ReLU", "bregman", seed, 3, sweeps=sweeps, metric="plain", step=step)) for sweeps in SWEEPS]
    print(f"| {step:g} | {' | '.join(row)} |", flush=True)
