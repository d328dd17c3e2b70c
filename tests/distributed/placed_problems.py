"""Problems that the tests of distribution share."""

import torch
from torch import nn

import paralift as pl


class Residual(nn.Module):
    """Blocks whose skips pass over several stages."""

    def __init__(self, width=6, blocks=3):
        super().__init__()
        self.first, self.last = nn.Linear(5, width), nn.Linear(width, 3)
        self.inner = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(blocks))

    def forward(self, x):
        u = self.first(x)
        for block in self.inner:
            u = torch.relu(u + block(u))
        return self.last(u)


class Tied(nn.Module):
    """The first and the last stage share a matrix."""

    def __init__(self):
        super().__init__()
        self.weight, self.middle = nn.Parameter(torch.randn(5, 5) / 2), nn.Linear(5, 5)

    def forward(self, x):
        return torch.relu(self.middle(torch.relu(x @ self.weight))) @ self.weight.T


def problem(kind="chain", dtype=torch.float64, samples=24, validation=False):
    torch.manual_seed(3)
    widths = [5, 7, 6, 6, 7, 5, 6, 6, 3]
    network = {"chain": lambda: nn.Sequential(*[m for a, b in zip(widths[:-2], widths[1:-1]) for m in (nn.Linear(a, b), nn.ReLU())], nn.Linear(6, 3)),
               "residual": Residual, "tied": Tied}[kind]().to(dtype)
    x = torch.randn(samples, 5, dtype=dtype)
    y = torch.randint(0, 3, (samples,))
    return pl.LiftedTraining(network, x, y, weight_regulariser=1e-3 * pl.L1Norm() if kind == "chain" else None, validation=(x[:10], y[:10]) if validation else None)


def mesh(data, layers, **more):
    return pl.Workers(data=data, layers=layers, **more)


def normalised():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()
    x, y = torch.randn(46, 1, 8, 8, dtype=torch.float64), torch.randint(0, 3, (46,))
    return pl.LiftedTraining(network, x, y, validation=(x[:20], y[:20]))
