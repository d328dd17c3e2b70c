"""What `paralift demo` does: a classifier with sparse weights, trained by lifting on the digits, and two figures; examples/train_digits.py is the script to read."""

import os
from pathlib import Path

import torch

from .data import digits
from .networks import MLP
from .operators import L1Norm
from .plotting import plot_predictions
from .problems import LiftedTraining
from .solvers import ISGM, Result

__all__ = ["demo"]


def demo(output: str | os.PathLike = "output", epochs: int = 40) -> Result:
    """Train, print the problem and the result, and draw the convergence and some predictions into the folder `output`. ImportError without scikit-learn."""
    output = Path(output)
    torch.manual_seed(0)
    (images, labels), test = digits()
    problem = LiftedTraining(MLP(64, 128, 64, 10), images, labels, weight_regulariser=1e-5 * L1Norm(), validation=test)
    print(problem)
    result = ISGM(epochs, batch_size=32, seed=0).solve(problem)
    print(result)
    output.mkdir(parents=True, exist_ok=True)
    result.plot(output / "digits_convergence.png")
    images, labels = test
    with torch.no_grad():
        predicted = result.network(images).argmax(1)
    wrong = (predicted != labels).nonzero().flatten()
    shown = torch.cat([torch.arange(20), wrong[wrong >= 20][:10]])
    plot_predictions(images[shown].view(-1, 8, 8), predicted[shown], labels[shown], output / "digits_predictions.png",
                     title=f"Predicted class; framed: wrong, {len(wrong)} of {len(labels)}")
    print(f"figures: {output / 'digits_convergence.png'}, {output / 'digits_predictions.png'}")
    return result
