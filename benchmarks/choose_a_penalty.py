"""Penalties beside each other on the digits: `python benchmarks/choose_a_penalty.py [--quick]` prints the tables of doc/choose_a_penalty.md, in two minutes of processor time.

64-128-64-10, 1348 samples, batch 32, cross-entropy, one thread; test accuracy of the forward network. Every row of a table has the same starts and the same order of samples.
Times are the least processor seconds of a pass, the methods taking turns, over those of torch's own loop with Adam.
"""

import statistics
import time

import torch
from peers import Torch, accuracy, options
from torch import nn

import paralift as pl

BATCH, STEP = 32, 3e-3
PENALTIES = ("bregman", "mac", "lifted", "contrastive")
ACTIVATIONS = {"ReLU": nn.ReLU, "tanh": nn.Tanh}

quick = options(__doc__).quick
(x, y), (xt, yt) = pl.data.digits()
SEEDS, PASSES, ROUNDS = (1, 1, 1) if quick else (3, 5, 10)


def network(activation, seed):
    torch.manual_seed(seed)
    return pl.networks.MLP(64, 128, 64, 10, activation=ACTIVATIONS[activation])


def problem(activation, penalty, seed=0, rho=2.0):
    net = network(activation, seed)
    return pl.ContrastiveTraining(net, x, y, rho=rho) if penalty == "contrastive" else pl.LiftedTraining(net, x, y, penalty=penalty, rho=rho)


def lifted(activation, penalty, seed, passes, rho=2.0, **solver):
    """Test accuracy (%) after so many passes of ISGM; 0 where it diverged."""
    result = pl.ISGM(passes, batch_size=BATCH, seed=seed, **{"step": STEP, **solver}).solve(problem(activation, penalty, seed, rho), progress=False)
    return accuracy(result.network, xt, yt) if result.success else 0.0


def back_propagation(activation, seed, passes):
    run = Torch(network(activation, seed), x, y, seed, batch=BATCH, step=STEP)
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


def largest(steps, train):
    """The largest step that reaches 80 % in three passes, as text; train(step) -> accuracy."""
    found = [step for step in steps if train(step) >= 80]
    return f"{max(found):g}" if found else "none"


def relative_times():
    """({(penalty, sweeps): least processor time of a pass over back-propagation's least}, milliseconds of the latter)."""
    bare, runs = Torch(network("ReLU", 0), x, y, 0, batch=BATCH, step=STEP), {}
    for penalty in PENALTIES:
        p = problem("ReLU", penalty)
        for sweeps in (1,) if penalty == "contrastive" else (1, 3):
            runs[penalty, sweeps] = lambda p=p, sweeps=sweeps: pl.ISGM(1, batch_size=BATCH, sweeps=sweeps, step=STEP).solve(p, progress=False)
    runs["bare", 1], found = bare.run, {}
    for _ in range(ROUNDS):
        for key, run in runs.items():
            began = time.process_time()
            run()
            found.setdefault(key, []).append(time.process_time() - began)
    least = min(found.pop(("bare", 1)))
    return {key: f"{min(times) / least:.1f}" for key, times in found.items()}, 1000 * least


mean = lambda run: f"{statistics.mean(run(seed) for seed in range(SEEDS)):.1f}"
FEW, MANY = (0.1, 0.3, 1.0, 3.0, 10.0), (1.0, 10.0, 100.0)

print(f"""
Accuracy (%) after {PASSES} passes in Adam's metric at {STEP:g}, one sweep, rho = 2, mean of {SEEDS} seeds;
least processor time of a pass, of {ROUNDS} rounds, over back-propagation's;
largest step of {', '.join(f'{s:g}' for s in FEW)} (3 sweeps: {', '.join(f'{s:g}' for s in MANY)}) that reaches 80 % in 3 passes, plain metric, ReLU, seed 0
""")
times, milliseconds = relative_times()
print("| method | ReLU | tanh | time, 1 sweep | time, 3 sweeps | largest step, 1 sweep | 3 sweeps |\n|---|---|---|---|---|---|---|")
best = largest(FEW, lambda step: descent("ReLU", 0, 3, step))
print(f"| back-propagation | {' | '.join(mean(lambda seed: back_propagation(a, seed, PASSES)) for a in ACTIVATIONS)} | 1 ({milliseconds:.0f} ms) | | {best} | |", flush=True)
for penalty in PENALTIES:
    steps = [largest(grid, lambda step: lifted("ReLU", penalty, 0, 3, sweeps=sweeps, metric="plain", step=step)) if (penalty, sweeps) in times else ""
             for sweeps, grid in ((1, FEW), (3, MANY))]
    cells = (penalty, *(mean(lambda seed: lifted(a, penalty, seed, PASSES)) for a in ACTIVATIONS), times[penalty, 1], times.get((penalty, 3), ""), *steps)
    print(f"| {' | '.join(cells)} |", flush=True)

RHO = (0.1, 1.0) if quick else (0.01, 0.1, 1.0, 2.0, 10.0, 100.0)
print(f"\nThe same accuracy by rho, ReLU; one sweep as above, three sweeps in the plain metric at step 1\n\n| penalty | sweeps | {' | '.join(f'{rho:g}' for rho in RHO)} |"
      f"\n|---|---|{'---|' * len(RHO)}")
for penalty, sweeps in (*((p, 1) for p in PENALTIES[:3]), ("bregman", 3)):
    solver = {} if sweeps == 1 else {"metric": "plain", "step": 1.0}
    row = [mean(lambda seed: lifted("ReLU", penalty, seed, PASSES, rho, sweeps=sweeps, **solver)) for rho in RHO]
    print(f"| {penalty} | {sweeps} | {' | '.join(row)} |", flush=True)

SWEEPS = (1, 3) if quick else (1, 2, 3, 10)
heads = " | ".join(f"{s} sweep{'s' * (s > 1)}" for s in SWEEPS)
print(f"\nAccuracy by sweeps: \"bregman\", ReLU, rho = 2, plain metric, 3 passes, seed 0\n\n| step | {heads} |\n|---|{'---|' * len(SWEEPS)}")
for step in (0.3, 10.0) if quick else (0.03, 0.3, 1.0, 10.0, 100.0):
    row = [f"{lifted('ReLU', 'bregman', 0, 3, sweeps=sweeps, metric='plain', step=step):.1f}" for sweeps in SWEEPS]
    print(f"| {step:g} | {' | '.join(row)} |", flush=True)
