"""ResNet, vision transformer and causal transformer: ISGM beside the module's own torch training by AdamW, same start, same order, one thread.

`python benchmarks/architectures.py [--quick] [--samples 10000] [--passes 3] [--seeds 3] [resnet|vit|transformer|gpt2 ...]` prints the test accuracy, or the validation loss,
per pass, the ratio of the times per pass, and the ratio of the peak memory of tensors. Fashion-MNIST and tinyshakespeare come through PARALIFT_DATA; the digits, and
the texts of Python's own help, take their places where they are not at hand.
"""

import argparse
import platform
import pydoc_data.topics
import time
import warnings

import torch
from peers import BATCH, Lifted, Torch, accuracy, compare

import paralift as pl

DECAY = 0.01


def fashion(samples):
    """Images (n, 1, side, side), standardised; 4000 test images are enough to tell 1 %."""
    try:
        (x, y), (xt, yt) = pl.data.fashion_mnist(flatten=False)
    except FileNotFoundError:
        (x, y), (xt, yt) = pl.data.digits()
        x, xt = x.view(-1, 8, 8), xt.view(-1, 8, 8)
    mean, deviation = x.mean(), x.std()
    standard = lambda a: ((a - mean) / deviation).unsqueeze(1)
    return standard(x[:samples]), y[:samples], standard(xt[:4000]), yt[:4000]


def text(samples, context=128):
    """Characters (n, context) and the ones after them; the validation text is the last tenth."""
    try:
        tokens, alphabet = pl.data.characters(pl.data.tinyshakespeare())
    except FileNotFoundError:
        tokens, alphabet = pl.data.characters("".join(pydoc_data.topics.topics.values()))
    windows = tokens[:len(tokens) // (context + 1) * (context + 1)].view(-1, context + 1)
    cut = len(windows) * 9 // 10
    train, test = windows[:cut][torch.randperm(cut, generator=torch.Generator().manual_seed(0))[:samples]], windows[cut:][:300]
    return train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:], len(alphabet)


def token_loss(network, xt, yt):
    """Nats a character."""
    network.eval()
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(network(a).flatten(0, 1), b.flatten(), reduction="sum") for a, b in zip(xt.split(50), yt.split(50))]
    return float(sum(losses)) / yt.numel()


def resnet(samples):
    data = fashion(samples)
    return "ResNet-20, Fashion-MNIST", lambda: pl.networks.ResNet(1, 10), data, {"batch": BATCH}, accuracy, "test accuracy (%)"


def vit(samples):
    data = fashion(samples)
    side = data[0].shape[-1]
    return ("vision transformer, Fashion-MNIST", lambda: pl.networks.VisionTransformer(1, side, 10, patch=side // 4, width=64, blocks=4), data, {"batch": BATCH},
            accuracy, "test accuracy (%)")


def transformer(samples):
    *data, vocabulary = text(samples)
    return ("causal transformer, 4 blocks, 128 wide, 128 characters", lambda: pl.networks.CausalTransformer(vocabulary, 128, 4, 4, 128), data, {"batch": 32},
            token_loss, "validation loss (nats a character)")


TASKS = {"resnet": resnet, "vit": vit, "transformer": transformer}
KINDS = {"torch, AdamW": lambda network, x, y, seed, **k: Torch(network, x, y, seed, weight_decay=DECAY, **k),
         "ISGM, one sweep": lambda network, x, y, seed, **k: Lifted(network, x, y, seed, weight_decay=DECAY, **k)}


def peak(task, kind, batches=2):
    """MiB of tensors alive at once while a pass is made, beyond what is there before it, counted by torch's profiler."""
    _, make, (x, y, *_), options, *_ = TASKS[task](1000)
    torch.manual_seed(0)
    n = batches * options["batch"]
    run = KINDS[kind](make(), x[:n], y[:n], 0, **options)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run.run()
    now = most = 0
    for event in sorted((e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / 2**20


def gpt2(quick):
    """GPT-2 small's architecture (12 blocks, 768 wide, 50257 tokens): seconds to lift it, and how its stages share out by measured cost."""
    blocks, width, vocabulary, context = (2, 32, 500, 16) if quick else (12, 768, 50257, 1024)
    torch.manual_seed(0)
    network = pl.networks.CausalTransformer(vocabulary, width, blocks, 4 if quick else 12, context, activation=torch.nn.GELU)
    tokens, following = (torch.randint(vocabulary, (2, min(context, 128))) for _ in range(2))
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                      # GELU gets the MAC penalty
        stages = pl.lift(network, tokens)
    seconds = time.perf_counter() - began
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        costs = pl.stage_costs(pl.LiftedTraining(network, tokens, following), batch_size=2)
    shares = {parts: max(sum(costs[i] for i in group) for group in pl.partition(costs, parts)) / (sum(costs) / parts) for parts in (2, 4, 8)}
    print(f"GPT-2 small's architecture: {sum(p.numel() for p in network.parameters()):,} parameters lifted in {seconds:.1f} s, {len(stages)} stages")
    print(f"costliest stage {max(costs) / sum(costs):.1%}; largest part over the mean: " + ", ".join(f"{v:.2f} ({k} workers)" for k, v in shares.items()) + "\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two minibatches, a pass, a seed")
    parser.add_argument("--samples", type=int, default=10000, help="training samples (images, or texts of 128 characters)")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, "gpt2", []], default=[], help="all by default")
    a = parser.parse_args()
    torch.set_num_threads(1)
    samples, passes, seeds = (256, 1, 1) if a.quick else (a.samples, a.passes, a.seeds)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread; {samples} samples, weight decay {DECAY}, step falling from 1e-3\n")
    for task in a.tasks or [*TASKS, "gpt2"]:
        if task == "gpt2":
            gpt2(a.quick)
            continue
        name, make, (x, y, xt, yt), options, measure, title = TASKS[task](samples)
        xt, yt = (xt[:200], yt[:200]) if a.quick else (xt, yt)

        def network(seed, make=make):
            torch.manual_seed(seed)
            return make()

        print(f"{name}: {sum(p.numel() for p in make().parameters()):,} parameters, batch {options['batch']}")
        compare({kind: lambda s, build=build: build(network(s), x, y, s, falling=passes, **options) for kind, build in KINDS.items()}, xt, yt, passes, seeds, measure, title)
        used = {kind: peak(task, kind) for kind in KINDS}
        first = next(iter(used.values()))
        print("peak memory: " + ", ".join(f"{kind} {mib:.0f} MiB ({mib / max(first, 1):.2f})" for kind, mib in used.items()) + "\n", flush=True)


if __name__ == "__main__":
    main()
