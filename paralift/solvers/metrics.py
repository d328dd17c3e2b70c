"""Metrics of minibatch steps: plain, momentum, and the diagonals of AdaGrad and Adam, with the prox in the same metric."""

import torch
from torch.optim.adam import adam

__all__ = ["METRICS", "DEFAULT_STEPS", "metric_start", "metric_step", "metric_prox"]

METRICS = ("adam", "adagrad", "momentum", "plain")
DEFAULT_STEPS = {"adam": 1e-3, "adagrad": 1e-2}


def metric_start(kind, leaves):
    """The metric's state: lists in the order of the leaves."""
    zeros = lambda: [torch.zeros_like(v) for v in leaves]
    return {"adam": lambda: {"first": zeros(), "second": zeros(), "steps": [torch.zeros((), device=v.device) for v in leaves]},
            "adagrad": lambda: {"second": zeros()}, "momentum": lambda: {"first": zeros()}, "plain": dict}[kind]()


def metric_step(kind, leaves, gradients, state, tau):
    """leaves <- leaves - tau * metric(gradients), in place, by torch's own fused kernels."""
    if kind == "adam":
        adam(leaves, gradients, state["first"], state["second"], [], state["steps"], fused=True, amsgrad=False,
             beta1=0.9, beta2=0.999, lr=tau, weight_decay=0.0, eps=1e-8, maximize=False)
    elif kind == "adagrad":
        torch._foreach_addcmul_(state["second"], gradients, gradients)
        torch._foreach_addcdiv_(leaves, gradients, [_diagonal(kind, state, i) for i in range(len(leaves))], value=-tau)
    elif kind == "momentum":
        torch._foreach_mul_(state["first"], 0.9)
        torch._foreach_add_(state["first"], gradients)
        torch._foreach_add_(leaves, state["first"], alpha=-tau)
    else:
        torch._foreach_add_(leaves, gradients, alpha=-tau)


def _diagonal(kind, state, i):
    """H of leaf i: the step is theta - tau H^-1 direction."""
    second = state["second"][i]
    return (second if kind == "adagrad" else second / (1 - 0.999 ** state["steps"][i])).sqrt().add_(1e-8)


def metric_prox(kind, leaves, functionals, state, tau):
    """leaf <- argmin |u - leaf|_H^2 / (2 tau) + R(u) with the step's H, in place, for the leaves with a functional R (None: none).

    For a diagonal H that is R's own prox with a step tau / H_ii per coordinate, where R is separable; elsewhere H = 1 is taken, the scalar fall-back: it keeps
    constraints, but weighs R by about H_ii less than the gradients. Momentum 0.9 moves by ten gradients in the long run, hence 10 tau.
    """
    for i, (v, R) in enumerate(zip(leaves, functionals)):
        if R is not None:
            diagonal = kind in ("adam", "adagrad") and R.separable
            v.copy_(R._prox(v, tau / _diagonal(kind, state, i) if diagonal else 10 * tau if kind == "momentum" else tau))
