"""A small CNN with batch normalisation on MNIST, ISGM beside torch's own loop: `python benchmarks/mnist_cnn.py [--quick]`."""

import torch
from peers import Lifted, Torch, compare, mnist, options
from torch import nn

quick = options(__doc__).quick
x, y, xt, yt = mnist(1280 if quick else None)
side = 28 if x.shape[1] == 784 else 8
x, xt = x.view(-1, 1, side, side), xt.view(-1, 1, side, side)[:2000 if quick else None]
yt = yt[:len(xt)]


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(64 * (side // 8)**2, 10))


epochs = 1 if quick else 3
compare({"torch, fused Adam": lambda s: Torch(network(s), x, y, s, falling=epochs), "ISGM, one sweep": lambda s: Lifted(network(s), x, y, s, falling=epochs)},
        xt, yt, epochs=epochs, seeds=1 if quick else 2)
