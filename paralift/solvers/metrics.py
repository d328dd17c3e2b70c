"""Metrics of minibatch steps: plain, momentum and the diagonal of Adam, with the prox in the same metric."""

import torch
from torch.optim.adam import adam

__all__ = ["METRICS", "metric_start", "metric_step", "metric_prox"]

METRICS = ("adam", "momentum", "plain")


def metric_start(kind, leaves):
    """The metric's state: lists in the order of the leaves."""
    zeros = lambda: [torch.zeros_like(v) for v in leaves]
    return {"adam": lambda: {"first": zeros(), "second": zeros(), "steps": [torch.zeros((), device=v.device) for v in leaves]},
            "momentum": lambda: {"first": zeros()}, "plain": dict}[kind]()


def metric_step(kind, leaves, gradients, state, tau):
    """leaves <- leaves - tau * metric(gradients), in place, by torch's own fused kernels."""
    if kind == "adam":
        adam(leaves, gradients, state["first"], state["second"], [], state["steps"], fused=True, amsgrad=False,
             beta1=0.9, beta2=0.999, lr=tau, weight_decay=0.0, eps=1e-8, maximize=False)
    elif kind == "momentum":
        torch._foreach_mul_(state["first"], 0.9)
        torch._foreach_add_(state["first"], gradients)
        torch._foreach_add_(leaves, state["first"], alpha=-tau)
    else:
        torch._foreach_add_(leaves, gradients, alpha=-tau)


def metric_prox(kind, leaves, functionals, state, tau):
    """leaf <- prox of its functional (None: none), in place: per coordinate for Adam where the functional is separable, with one step otherwise."""
    for i, (v, R) in enumerate(zip(leaves, functionals)):
        if R is not None:
            sigma = tau
            if kind == "adam" and R.separable:
                sigma = (tau / (state["second"][i] / (1 - 0.999 ** state["steps"][i])).sqrt().add_(1e-8)).clamp_(max=1.0)
            v.copy_(R._prox(v, sigma))
