"""Train a deep network by several workers: `python examples/train_distributed.py [--workers N] [--data D --layers L] [--epochs N] [--quick] [--output DIR]`.

The same file runs on its own, or under `torchrun --nproc-per-node 4 examples/train_distributed.py`, on one machine or several. The digits of scikit-learn, or MNIST
with `--data-set mnist`. It also draws what a simulation with the measured costs of the stages predicts for more workers.
"""

import argparse
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser()
parser.add_argument("--workers", type=int, default=None, help="processes; leave out under torchrun")
parser.add_argument("--data", type=int, default=None, help="of them along the samples")
parser.add_argument("--layers", type=int, default=None, help="of them along the layers")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--depth", type=int, default=10)
parser.add_argument("--width", type=int, default=128)
parser.add_argument("--data-set", choices=["mnist", "digits"], default="digits")
parser.add_argument("--quick", action="store_true", help="six epochs, two workers")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
if arguments.quick:
    arguments.epochs, arguments.workers, arguments.width = 6, 2, 32
output = Path(arguments.output)

(images, labels), test = pl.data.mnist() if arguments.data_set == "mnist" else pl.data.digits()
torch.manual_seed(0)
network = pl.networks.MLP(images.shape[1], *[arguments.width] * (arguments.depth - 1), 10)
network = pl.networks.rescale(network, images[:500])
problem = pl.LiftedTraining(network, images, labels, validation=test)
workers = arguments.workers
if arguments.data or arguments.layers:
    workers = pl.Workers(total=workers, data=arguments.data, layers=arguments.layers)
result = pl.ISGM(epochs=arguments.epochs, batch_size=128, schedule="linear").solve(problem, workers=workers)

if pl.distributed.rank() == 0:                                      # under torchrun every process comes here
    output.mkdir(parents=True, exist_ok=True)
    print(result)
    result.plot(output / "distributed_convergence.png")
    prediction = pl.distributed.simulate(problem, workers=(1, 2, 4, 8, 16, 32, 64), batch_size=128, schedules=("mesh", "stream", "flush_1f1b"))
    print(prediction)
    prediction.plot(output / "distributed_prediction.png")
    print(f"figures: {output / 'distributed_convergence.png'}, {output / 'distributed_prediction.png'}")
