"""Train a network on the digits by lifted Bregman and look at it: `python examples/train_digits.py [--epochs N] [--quick] [--output DIR]`."""

import argparse
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--quick", action="store_true", help="ten epochs")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)

torch.manual_seed(0)
(images, labels), (test_images, test_labels) = pl.data.digits()
network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
problem = pl.LiftedTraining(network, images, labels, loss="cross_entropy", penalty="bregman", weight_regulariser=1e-5 * pl.L1Norm(), validation=(test_images, test_labels))
print(problem)
result = pl.ISGM(epochs=10 if arguments.quick else arguments.epochs, batch_size=32, seed=0).solve(problem)
print(result)
result.plot(output / "digits_convergence.png")
with torch.no_grad():
    predicted = result.network(test_images).argmax(1)
wrong = (predicted != test_labels).nonzero().flatten()
shown = torch.cat([torch.arange(20), wrong[wrong >= 20][:10]])
pl.plotting.plot_predictions(test_images[shown].view(-1, 8, 8), predicted[shown], test_labels[shown], output / "digits_predictions.png",
                             title=f"Predicted class; framed: wrong. The first 20 test images, then others among the {len(wrong)} misclassified")
print(f"figures: {output / 'digits_convergence.png'}, {output / 'digits_predictions.png'}")
