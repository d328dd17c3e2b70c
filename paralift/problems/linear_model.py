"""`linear_model`: regression and classification by one linear layer, as a finite sum."""

import torch
from torch import nn

from ..arguments import checked
from ..operators.functional import Functional
from ..operators.penalties import Penalty
from .lifted_training import Data, LiftedTraining, _tensors
from .losses import CrossEntropy, Logistic, Loss, loss_from

__all__ = ["linear_model"]


@checked
def linear_model(inputs: Data, targets: Data, loss: str | Functional | Penalty | Loss = "squared_error", regulariser: Functional | None = None, bias: bool = False,
                 validation: tuple[Data, Data] | None = None) -> LiftedTraining:
    """min_W (1/n) sum_i loss(W x_i [+ b], y_i) + regulariser(W): a `LiftedTraining` of one linear layer that starts at zero.

    Parameters
    ----------
    inputs : (n, d), a tensor or array of floats.
    targets : (n,) or (n, outputs) numbers; integer classes (n,) for "cross_entropy"; 0 and 1 for "logistic".
    loss : a name ("squared_error" = |z - y|^2 / 2, "cross_entropy", "logistic", "huber", ...) or what `LiftedTraining` takes.
    regulariser : Functional with a prox on W, for instance 0.1 * L1Norm(): with "squared_error" the lasso in scikit-learn's scaling, with
        "cross_entropy" or "logistic" sparse logistic regression (alpha = 1 / (C n)).
    bias : an unregularised b.

    The problem is convex where the loss and the regulariser are; its per-sample gradients are residual (x) input, so SAGA and PIAG keep n outputs numbers.
    Raises ValueError where inputs are not floats of two axes, or labels do not fit the loss.
    """
    inputs, targets = _tensors(inputs, targets)
    if inputs.dim() != 2 or not inputs.is_floating_point():
        raise ValueError(f"inputs of shape {tuple(inputs.shape)} and dtype {inputs.dtype} were given; linear_model needs floats of shape (samples, features).")
    chosen = loss_from(loss, None) if loss != "bregman" else None
    if chosen is None:
        raise ValueError("loss='bregman' was given; a linear model ends in no activation: use 'squared_error', 'logistic' or 'cross_entropy'.")
    if isinstance(chosen, CrossEntropy):
        outputs = 1 if targets.is_floating_point() or targets.is_complex() or not targets.numel() else int(targets.max()) + 1              # the loss refuses what are no labels
    else:
        def shape(y) -> torch.Tensor:
            return y.to(inputs.dtype)[:, None] if y.dim() == 1 else y.to(inputs.dtype)

        targets = shape(targets)
        outputs = targets.shape[-1]
        validation = None if validation is None else (validation[0], shape(_tensors(*validation)[1]))
        if isinstance(chosen, Logistic) and len(targets):
            chosen.check(targets, targets)
    layer = nn.Linear(inputs.shape[1], outputs, bias, device=inputs.device, dtype=inputs.dtype)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    return LiftedTraining(layer, inputs, targets, loss=chosen, weight_regulariser=regulariser, validation=validation)
