"""Metrics of minibatch steps: plain, momentum, and the diagonals of AdaGrad and Adam, with the prox in the same metric."""

from typing import Literal

import torch
from torch.optim.adam import adam

__all__ = ["Metric", "DEFAULT_STEPS", "metric_start", "metric_step", "metric_prox"]

Metric = Literal["adam", "adagrad", "momentum", "plain"]
DEFAULT_STEPS = {"adam": 1e-3, "adagrad": 1e-2}


def metric_start(kind, theta):
    """The metric's state, {quantity: {name: tensor}}, for the parameters {name: tensor}."""
    zeros = lambda: {name: torch.zeros_like(v) for name, v in theta.items()}
    return {"adam": lambda: {"first": zeros(), "second": zeros(), "steps": {name: torch.zeros(() if v.numel() else 0, device=v.device) for name, v in theta.items()}},
            "adagrad": lambda: {"second": zeros()}, "momentum": lambda: {"first": zeros()}, "plain": dict}[kind]()


def metric_step(kind, names, theta, gradient, state, tau):
    """theta <- theta - tau * metric(gradient) for the `names`, in place, by torch's own fused kernels; a complex number is two real ones."""
    pairs = any(theta[name].is_complex() for name in names)
    pick = lambda table: [_real(table[name]) if pairs else table[name] for name in names]
    leaves, gradients = pick(theta), pick(gradient)
    if kind == "adam":
        gradients = [g if g.stride() == v.stride() else torch.empty_like(v).copy_(g) for g, v in zip(gradients, leaves)]       # the fused kernel reads memory in order
        adam(leaves, gradients, pick(state["first"]), pick(state["second"]), [], pick(state["steps"]), fused=True, amsgrad=False,
             beta1=0.9, beta2=0.999, lr=tau, weight_decay=0.0, eps=1e-8, maximize=False)
    elif kind == "adagrad":
        torch._foreach_addcmul_(pick(state["second"]), gradients, gradients)
        torch._foreach_addcdiv_(leaves, gradients, [_diagonal(kind, state, name) for name in names], value=-tau)
    elif kind == "momentum":
        first = pick(state["first"])
        torch._foreach_mul_(first, 0.9)
        torch._foreach_add_(first, gradients)
        torch._foreach_add_(leaves, first, alpha=-tau)
    else:
        torch._foreach_add_(leaves, gradients, alpha=-tau)


def _real(v):
    return torch.view_as_real(v.resolve_conj()) if v.is_complex() else v


def _diagonal(kind, state, name):
    """H of a block: the step is theta - tau H^-1 direction."""
    second = _real(state["second"][name])
    return (second if kind == "adagrad" else second / (1 - 0.999 ** state["steps"][name])).sqrt().add_(1e-8)


def metric_prox(kind, names, theta, functionals, state, tau):
    """theta <- argmin |u - theta|_H^2 / (2 tau) + R(u) with the step's H, in place, for the `names` with a functional R in {name: R}.

    For a diagonal H that is R's own prox with a step tau / H_ii per coordinate, where R is separable and theta real; elsewhere H = 1 is taken, the scalar fall-back: it keeps
    constraints, but weighs R by about H_ii less than the gradients. Momentum 0.9 moves by ten gradients in the long run, hence 10 tau.
    """
    for name in names:
        if name in functionals:
            v, R = theta[name], functionals[name]
            diagonal = kind in ("adam", "adagrad") and R.separable and not v.is_complex()
            v.copy_(R._prox(v, tau / _diagonal(kind, state, name) if diagonal else 10 * tau if kind == "momentum" else tau))
