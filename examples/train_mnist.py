"""Train 784-256-256-10 on MNIST by lifted Bregman: `python examples/train_mnist.py [--epochs N] [--samples N] [--data digits] [--quick] [--output DIR]`.

MNIST is read from PARALIFT_DATA or the cache, or fetched; `--data digits` takes scikit-learn's small digits instead.
"""

import argparse
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--samples", type=int, default=60000, help="train on the first so many images")
parser.add_argument("--data", choices=["mnist", "digits"], default="mnist")
parser.add_argument("--quick", action="store_true", help="ten epochs on the digits")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
if arguments.quick:
    arguments.data, arguments.epochs = "digits", 10
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)

(images, labels), test = pl.data.mnist() if arguments.data == "mnist" else pl.data.digits()
images, labels, side = images[:arguments.samples], labels[:arguments.samples], round(images.shape[1] ** 0.5)
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(side * side, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
problem = pl.LiftedTraining(network, images, labels, loss="cross_entropy", penalty="bregman", validation=test)
print(problem)
result = pl.ISGM(epochs=arguments.epochs, batch_size=128, seed=0).solve(problem)
print(result)

with torch.no_grad():
    predicted = result.network(test[0]).argmax(1)
wrong = (predicted != test[1]).nonzero().flatten()
shown = torch.cat([torch.arange(20), wrong[wrong >= 20][:20]])
print(f"misclassified: {len(wrong)} of {len(predicted)} test images")
result.plot(output / "mnist_convergence.png")
pl.plotting.plot_predictions(test[0][shown].view(-1, side, side), predicted[shown], test[1][shown], output / "mnist_predictions.png", columns=10, rows=4,
                             title=f"Predicted class ({arguments.data}); framed: wrong. The first 20 test images, then others among the {len(wrong)} misclassified")
print(f"figures: {output / 'mnist_convergence.png'}, {output / 'mnist_predictions.png'}")
