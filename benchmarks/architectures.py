"""ResNet, vision transformer and causal transformer: ISGM beside the module's own torch training by AdamW, same start, same order, one thread.

`python benchmarks/architectures.py [--quick] [--samples 10000] [--passes 3] [--seeds 3] [resnet|vit|transformer ...]` prints the test accuracy, or the validation loss,
per pass, the ratio of the times per pass, and the ratio of the peak memory (each from a process of its own). Fashion-MNIST and tinyshakespeare come through PARALIFT_DATA;
the digits, and the texts of Python's own help, take their places where they are not at hand.
"""

import argparse
import ctypes
import platform
import pydoc_data.topics
import subprocess
import sys

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


def peak(task, kind, batches=3):
    """MiB that a pass takes above what is there before it, in a process of its own (Linux)."""
    lines = f"import architectures as a; a.measure_memory({task!r}, {kind!r}, {batches})"
    return float(subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, cwd=sys.path[0]).stdout.split()[-1])


def measure_memory(task, kind, batches):
    torch.set_num_threads(1)
    _, make, (x, y, *_), options, *_ = TASKS[task](1000)
    torch.manual_seed(0)
    network, n = make(), batches * options["batch"]
    run = KINDS[kind](network, x[:n], y[:n], 0, **options)
    run.run()                                                # what is made once is there now
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")                                      # the kernel's mark of the peak starts afresh
    before = resident("VmRSS")
    run.run()
    print(resident("VmHWM") - before)


def resident(key):
    """MiB of this process, now (VmRSS) or at most (VmHWM)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two minibatches, a pass, a seed")
    parser.add_argument("--samples", type=int, default=10000, help="training samples (images, or texts of 128 characters)")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], default=[], help="all by default")
    a = parser.parse_args()
    torch.set_num_threads(1)
    samples, passes, seeds = (256, 1, 1) if a.quick else (a.samples, a.passes, a.seeds)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread; {samples} samples, weight decay {DECAY}, step falling from 1e-3\n")
    for task in a.tasks or TASKS:
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
