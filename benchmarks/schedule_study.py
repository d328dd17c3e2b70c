"""Schedules of layer workers beside each other: `python benchmarks/schedule_study.py [--quick] [--seeds 3] [--samples 60000] [--networks mlp10,mlp16,res8]
[--workers 8] [--microbatches 1,4] [schedule ...]`, which is how the library's default was chosen.

One process plays P workers in a fixed order of events; each owns consecutive layers, their parameters and Adam metric. Serial method: one lifted sweep a minibatch of
128, rho = 2, step tau falling linearly from 1e-3; MNIST in [0, 1] (the digits where it is absent), width 256, 3 passes. Without a flush worker s of P has P - s
microbatches under way and M of them make an update, so d = (P - 1 - s)/M updates lie between a microbatch's forward and backward visits. Schedules:

    serial      one worker
    streamed    no flush, an update after every M microbatches; with M = 1 every worker is on its own minibatch
    slower=a    steps tau/(1 + d)^a
    stash       the pull takes the parameters of the forward visit, which are kept
    predict=v   forward visits at parameters predicted v d updates ahead by Adam's momentum
    flush=k     flush, M = 1; then k sweeps of each worker on its own subproblem (input and target stay) while it would wait
    jacobi      all workers at once on a resident minibatch, with the messages that their neighbours left at its last visit
    feedback=c  own residual + c (sigma(z at the newest parameters) - sigma(z)), which stays in the layer; `sent` sends it down to earlier ones, `relu` spares the last
                layers of residual blocks, `annealed` lets c fall with the step. `default` is feedback=0.3+annealed, as `pl.Streamed()`, which has ahead=1 as well
    warmup=w    the step rises over this part of the updates; beta1=b: Adam's; constant: the step does not fall; ahead=n, stretch=n: n more, n times as many under way

`+` joins them: predict=1+warmup=0.1. Printed: test accuracy (%) after each pass, mean over seeds; its spread (largest less smallest) at the end; copies of worker 0's
parameters and rows of minibatches that it holds, at most; multiplications beyond the serial sweep's. All schedules take hours on one core: name those that are wanted.
"""

import argparse
import math
import platform
import statistics
from collections import deque
from types import SimpleNamespace

import torch

import paralift as pl

WIDTH, BATCH, PASSES, RHO, STEP = 256, 128, 3, 2.0, 1e-3
PLAIN = dict(serial=0, streamed=0, slower=0, stash=0, predict=0, flush=None, jacobi=0, feedback=0, sent=0, relu=0, annealed=0, warmup=0, beta1=0.9, constant=0, ahead=0,
             stretch=1)
SCHEDULES = """serial serial+warmup=0.1 serial+constant streamed slower=0.5 slower=1 stash predict=1 predict=1.5 predict=1+slower=0.5 flush=1 flush=3 jacobi feedback=0.01
    feedback=0.1 feedback=0.3 feedback=1 feedback=0.3+sent feedback=0.3+relu default default+ahead=1 default+stretch=2 feedback=0.1+predict=1 feedback=0.3+predict=1
    feedback=0.3+slower=0.5 feedback=0.3+predict=1+slower=0.5 warmup=0.1 predict=1+warmup=0.1 predict=1+warmup=0.1+beta1=0.8 beta1=0.5 constant feedback=0.3+constant"""


def rule(name):
    chosen = dict(part.partition("=")[::2] for part in name.replace("default", "feedback=0.3+annealed").split("+"))
    if not chosen.keys() <= PLAIN.keys():
        raise argparse.ArgumentTypeError(f"{name!r} is not a schedule; these are: {', '.join(PLAIN)}, default")
    return SimpleNamespace(**PLAIN | {"name": name} | {k: float(v or 1) for k, v in chosen.items()})


def network(kind, inputs, seed):
    """Units, which lie on one worker each: lists of layers (type, W, b), of type "relu", "last", or "in" and "out" of a residual block."""
    generator, count = torch.Generator().manual_seed(seed + 12345), int(kind[3:])
    layer = lambda type, m, n, variance: (type, torch.randn(m, n, generator=generator) * math.sqrt(variance), torch.zeros(m))
    if kind.startswith("mlp"):
        widths = [inputs] + [WIDTH] * (count - 1) + [10]
        return [[layer("relu" if l < count - 1 else "last", widths[l + 1], widths[l], 2 / widths[l])] for l in range(count)]
    first = [layer("relu", WIDTH, inputs, 2 / inputs)]
    blocks = [[layer("in", WIDTH, WIDTH, 2 / WIDTH), layer("out", WIDTH, WIDTH, 1 / WIDTH / count)] for _ in range(count)]
    return [first, *blocks, [layer("last", 10, WIDTH, 1 / WIDTH)]]


class Worker:
    """Consecutive layers, their parameters, gradient and Adam metric, and the microbatches that are on their way back to them."""

    def __init__(self, layers, rank, P, M, rule):
        self.types, self.rank, self.rule, self.waiting = [type for type, _, _ in layers], rank, rule, deque()
        parameters = [p for _, W, b in layers for p in (W, b)]
        self.shapes, self.theta = [p.shape for p in parameters], torch.cat([p.reshape(-1) for p in parameters])
        self.gradient, self.m, self.v = (torch.zeros_like(self.theta) for _ in range(3))
        (self.W, self.b), (self.gW, self.gb), self.steps = self.views(self.theta), self.views(self.gradient), torch.zeros(())
        self.under_way = 1 + rule.stretch * (P - 1 - rank) + (rule.ahead if rank < P - 1 else 0)
        self.delay = 0 if rule.jacobi or rule.flush is not None else (self.under_way - 1) / M
        self.kept, self.predicted, self.copies = None, self.theta.clone() if rule.predict else None, 2 if rule.predict else 1
        self.updates = self.backwards = self.done = self.rows = self.products = 0

    def views(self, flat):
        parts = [v.view(shape) for v, shape in zip(flat.split([shape.numel() for shape in self.shapes]), self.shapes)]
        return parts[::2], parts[1::2]

    def through(self, x, W, b):
        """The layers' inputs, with the output at the end, and their z."""
        xs, zs = [x], []
        for l, type in enumerate(self.types):
            zs.append(torch.addmm(b[l], xs[l], W[l].T) if type != "out" else torch.addmm(b[l], xs[l], W[l].T) + xs[l - 1])
            xs.append(torch.relu(zs[l]) if type in ("relu", "in") else zs[l])
        return xs, zs

    def forward(self, x):
        xs, zs = self.through(x, *((self.W, self.b) if self.predicted is None else self.views(self.predicted)))
        if self.rule.stash and self.kept is None:
            self.kept = self.views(self.theta.clone())[0]
        self.waiting.append((xs, zs, self.kept, self.updates))
        self.copies = max(self.copies, len({made for *_, made in self.waiting}) if self.rule.stash else 1)
        self.rows, self.products = max(self.rows, len(x) * len(self.waiting)), self.products + len(x) * sum(W.numel() for W in self.W)
        return xs[-1]

    def backward(self, pull, down=True):
        """The oldest microbatch: adds its gradient and returns the pull on this worker's input if it is to go `down`; the last worker's `pull` is the one-hot labels."""
        (xs, zs, kept, made), rule = self.waiting.popleft(), self.rule
        c = rule.feedback * (max(0.02, 1 - self.done) if rule.annealed else 1) * (made != self.updates or self.predicted is not None)
        for l in reversed(range(len(self.types))):
            type, z, x = self.types[l], zs[l], xs[l]
            if type == "last":
                f = torch.softmax(z, 1) - pull
            elif type == "out":
                f = skip = pull
            else:
                f = (torch.relu(z) - torch.relu(torch.add(z, pull, alpha=-1 / RHO))) * RHO
            own, wanted = f, l > 0 or self.rank > 0 and down
            fed = c and type != "last" and not (rule.relu and type == "out")
            if fed:
                newest = torch.addmm(self.b[l], x, self.W[l].T)
                own = f + c * RHO * (newest + xs[l - 1] - z if type == "out" else torch.relu(newest) - torch.relu(z))
                f = own if rule.sent else f
            self.gW[l].addmm_(own.T, x, alpha=1 / BATCH)
            self.gb[l].add_(own.sum(0), alpha=1 / BATCH)
            if wanted:
                pull = f @ (kept or self.W)[l] + (skip if type == "in" else 0)
            self.products += len(x) * self.W[l].numel() * (1 + bool(wanted) + bool(fed))
        self.backwards += 1
        return pull

    def update(self, done, total):
        rule, self.done = self.rule, done
        step = STEP * (1 if rule.constant else max(0.02, 1 - done)) * (1 + self.delay) ** -rule.slower
        step *= min(1.0, (self.updates + 1) / (rule.warmup * total)) if rule.warmup else 1.0
        torch._fused_adam_([self.theta], [self.gradient], [self.m], [self.v], [], [self.steps.add_(1)], lr=step, beta1=rule.beta1, beta2=0.999, eps=1e-8,
                           weight_decay=0.0, amsgrad=False, maximize=False)
        self.gradient.zero_()
        self.updates, self.backwards, self.kept = self.updates + 1, 0, None
        if self.predicted is not None:
            scale = (self.v / (1 - 0.999 ** self.updates)).sqrt_().add_(1e-8)
            torch.addcdiv(self.theta, self.m, scale, value=-step * rule.predict * self.delay / (1 - rule.beta1 ** self.updates), out=self.predicted)


def shuffled(n, seed):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def streamed(workers, x, labels, seed, M, evaluate):
    """In turn each worker makes a visit: forwards while fewer than its number are under way, else backwards; or none where its message is not there yet."""
    last, n = len(workers) - 1, len(x) // BATCH
    parts = [rows for e in range(PASSES) for rows in shuffled(len(x), seed * 1_000_003 + e)[:n * BATCH].split(BATCH // M)]
    up, to_begin = [deque(parts)] + [deque() for _ in range(last)] + [deque(maxlen=0)], [len(parts)] * (last + 1)
    down = [deque(maxlen=0)] + [deque() for _ in range(last)] + [deque(parts)]
    while to_begin[0] or workers[0].waiting:
        for s, w in enumerate(workers):
            if to_begin[s] and len(w.waiting) < w.under_way:
                if up[s]:
                    up[s + 1].append(w.forward(up[s].popleft() if s else x[up[s].popleft()]))
                    to_begin[s] -= 1
            elif w.waiting and down[s + 1]:
                down[s].append(w.backward(down[s + 1].popleft() if s < last else labels[down[s + 1].popleft()]))
                if w.backwards == M:
                    w.update(w.updates / (n * PASSES), n * PASSES)
                    if s == 0 and w.updates % n == 0:
                        evaluate()


def flushed(workers, x, labels, seed, sweeps, evaluate):
    """The serial method, then sweeps on the workers' own subproblems: a worker's input stays, and the target x* that the worker above asks of its output."""
    n, last = len(x) // BATCH, len(workers) - 1
    for e in range(PASSES):
        for k, rows in enumerate(shuffled(len(x), seed * 1_000_003 + e)[:n * BATCH].split(BATCH)):
            ends, pulls, done = [x[rows]], [labels[rows]], ((e * n + k) / (n * PASSES), n * PASSES)
            for w in workers:
                ends.append(w.forward(ends[-1]))
            for w in reversed(workers):
                pulls.insert(0, w.backward(pulls[0]))
            for w in workers:
                w.update(*done)
            for s, w in list(enumerate(workers)) * int(sweeps):
                out, pull, target = w.forward(ends[s]), pulls[s + 1], ends[s + 1] - pulls[s + 1] / RHO
                if s < last:
                    pull = RHO * (out - (torch.relu(target) if w.types[-1] == "relu" else target))
                w.backward(pull, down=False)
                w.update(*done)
        evaluate()


def jacobi(workers, x, labels, seed, _, evaluate):
    """Minibatches are fixed sets of rows; a visit takes the inputs and pulls that the visit before left between the workers, and leaves new ones."""
    n, last, inputs, pulls = len(x) // BATCH, len(workers) - 1, {}, {}
    for k, rows in enumerate(shuffled(len(x), seed * 1_000_003)[:n * BATCH].split(BATCH)):
        inputs[k, 0], pulls[k, last] = x[rows], labels[rows]
        for s, w in enumerate(workers):                      # one forward pass at the start
            inputs[k, s + 1] = w.forward(inputs[k, s])
            w.waiting.clear()
    for e in range(PASSES):
        for i, k in enumerate(shuffled(n, e).tolist()):
            left = {}
            for s, w in enumerate(workers):
                left["x", s + 1] = w.forward(inputs[k, s])
                if (k, s) in pulls:                          # a worker whose pulls have not come down yet, one worker a pass, changes nothing
                    left["pull", s - 1] = w.backward(pulls[k, s])
                    w.update((e * n + i) / (n * PASSES), n * PASSES)
                w.waiting.clear()
            for (kind, s), value in left.items():
                if 0 <= s <= last:
                    (inputs if kind == "x" else pulls)[k, s] = value
        evaluate()
    workers[0].rows = n * BATCH


def train(kind, data, seed, P, M, rule):
    """[accuracy after each pass], worker 0's copies of parameters and rows, multiplications beyond the serial sweep's (%)."""
    (x, y), (xt, yt) = data
    units, accuracies = network(kind, x.shape[1], seed), []
    first = 0 if kind.startswith("mlp") else 1                # the layers beside residual blocks go with the first and the last worker
    cuts = [0] + [first + round(k * (len(units) - 2 * first) / P) for k in range(1, P)] + [len(units)]
    workers = [Worker(sum(units[a:b], []), s, P, M, rule) for s, (a, b) in enumerate(zip(cuts, cuts[1:]))]

    def evaluate():
        h = xt
        for w in workers:
            h = w.through(h, w.W, w.b)[0][-1]
        accuracies.append(100 * (h.argmax(1) == yt).float().mean().item())

    run, of = (jacobi, None) if rule.jacobi else (streamed, M) if rule.flush is None else (flushed, rule.flush)
    run(workers, x, torch.eye(10)[y], seed, of, evaluate)
    sizes = [W.numel() for w in workers for W in w.W]
    serial = (3 * sum(sizes) - sizes[0]) * (len(x) // BATCH) * BATCH * PASSES             # forwards, gradient, pull; none on the data
    return accuracies, workers[0].copies, workers[0].rows, 100 * (sum(w.products for w in workers) / serial - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="mlp10, 1000 samples, one seed, M = P/2 only")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=60000)
    parser.add_argument("--networks", default="mlp10,mlp16,res8")
    parser.add_argument("--workers", type=int, choices=[2, 4, 8], default=8)
    parser.add_argument("--microbatches", default=None, help="values of M, powers of 2; default 1 and P/2")
    parser.add_argument("schedules", nargs="*", type=rule, default=[rule(name) for name in SCHEDULES.split()])
    a = parser.parse_args()
    if a.quick:
        a.seeds, a.samples, a.networks, a.microbatches = 1, 1000, "mlp10", str(a.workers // 2)
    Ms = [int(M) for M in a.microbatches.split(",")] if a.microbatches else sorted({1, a.workers // 2})
    if not all(name[:3] in ("mlp", "res") and name[3:].isdigit() for name in a.networks.split(",")) or any(M < 1 or BATCH % M for M in Ms):
        parser.error(f"networks are mlp and res with a number, M divides {BATCH}; got {a.networks} and {Ms}")
    torch.set_num_threads(1)
    try:
        (x, y), test = pl.data.mnist()
    except FileNotFoundError:
        (x, y), test = pl.data.digits()
    x, y = x[:a.samples], y[:a.samples]
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread{', quick' if a.quick else ''}")
    for kind in a.networks.split(","):
        print(f"\n{kind}, width {WIDTH}, {a.workers} workers, {len(x)} samples, seeds 0 to {a.seeds - 1}")
        print(f"{'schedule':<34} {'M':>2}  {'after 1 / 2 / 3 passes':<24} {'spread':>6} {'copies':>6} {'rows':>6} {'extra products':>14}", flush=True)
        for r in a.schedules:
            for M in [1] if r.serial or r.jacobi or r.flush is not None else Ms:
                runs = [train(kind, ((x, y), test), seed, 1 if r.serial else a.workers, M, r) for seed in range(a.seeds)]
                (_, copies, rows, extra), ends = runs[0], [run[0][-1] for run in runs]
                means = " / ".join(f"{statistics.mean(v):.2f}" for v in zip(*(run[0] for run in runs)))
                print(f"{r.name:<34} {M:>2}  {means:<24} {max(ends) - min(ends):>6.2f} {copies:>6} {rows:>6} {extra:>12.0f} %", flush=True)


if __name__ == "__main__":
    main()
