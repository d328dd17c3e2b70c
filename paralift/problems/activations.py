"""What counts as an activation: torch's modules and ATen calls, and their potentials."""

from torch import nn

from .. import operators as P
from .stages import Activation, lifted_potential

__all__ = ["NO_PROX", "potential_of", "activation_of"]

NO_PROX = (nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Tanhshrink, nn.Hardshrink, nn.RReLU, nn.Threshold, nn.SELU, nn.Softsign, nn.Softmin,
           nn.ELU, nn.CELU, nn.LeakyReLU)
CALLS = {"gelu": "GELU", "silu": "SiLU", "mish": "Mish", "hardswish": "Hardswish", "hardshrink": "Hardshrink", "threshold": "Threshold",
         "selu": "SELU", "elu": "ELU", "celu": "CELU", "leaky_relu": "LeakyReLU"}       # without a potential, or only with some parameters


def _softmax(axis):
    """Softmax along an axis of a tensor with one batch axis; None along the batch."""
    return None if axis in (None, 0) else P.Softmax(axis - 1 if axis > 0 else axis)


def _leaky(slope):
    return P.ReLU() if slope == 0 else P.LeakyReLU(slope) if 0 < slope <= 1 else None


def _elu(alpha, scale=1, input_scale=1):
    return P.ELU(alpha) if 0 < alpha <= 1 and scale == 1 and input_scale == 1 else None


def _celu(alpha):
    return P.CELU(alpha) if alpha > 0 else None


# ---- modules
MODULES = {
    Activation: lambda m: m.potential, nn.ReLU: lambda m: P.ReLU(), nn.Tanh: lambda m: P.Tanh(), nn.Sigmoid: lambda m: P.Sigmoid(), nn.ReLU6: lambda m: P.ReLU6(),
    nn.Hardtanh: lambda m: P.Clip(m.min_val, m.max_val), nn.LeakyReLU: lambda m: _leaky(m.negative_slope), nn.ELU: lambda m: _elu(m.alpha), nn.CELU: lambda m: _celu(m.alpha),
    nn.Softshrink: lambda m: P.SoftThreshold(m.lambd), nn.Softplus: lambda m: P.Softplus(m.beta), nn.Softmax: lambda m: _softmax(m.dim), nn.Softmax2d: lambda m: P.Softmax(-3),
    nn.Softmin: lambda m: _softmax(m.dim), nn.Hardsigmoid: lambda m: P.HardSigmoid(), nn.LogSigmoid: lambda m: P.LogSigmoid(),
}


def potential_of(module):
    """The potential of an activation module (of softmin: softmax's, at -z); None where the module is no activation that we know as a proximal map."""
    return MODULES[type(module)](module) if type(module) in MODULES else None


# ---- calls in a graph
class Call:
    """An activation in a graph: its class name, its potential or None; `call(z)` is sigma(z)."""

    def __init__(self, kind, potential, target, rest, options):
        self.kind, self.potential, self.target, self.rest, self.options = kind, potential, target, rest, options

    def __call__(self, z):
        return self.target(z, *self.rest, **self.options)

    def __repr__(self):
        return self.kind


GRAPH = {
    "relu": lambda: P.ReLU(), "tanh": lambda: P.Tanh(), "sigmoid": lambda: P.Sigmoid(), "relu6": lambda: P.ReLU6(), "leaky_relu": lambda slope=0.01: _leaky(slope),
    "hardtanh": lambda low=-1.0, high=1.0: P.Clip(low, high), "softplus": lambda beta=1.0, threshold=20.0: P.Softplus(beta), "softshrink": lambda a=0.5: P.SoftThreshold(a),
    "elu": lambda alpha=1.0, *scales: _elu(alpha, *scales), "celu": lambda alpha=1.0: _celu(alpha), "softmax": lambda axis, dtype=None: _softmax(axis),
    "_softmax": lambda axis, half: _softmax(axis), "clamp": lambda low=None, high=None: _clip(low, high), "clamp_min": lambda low: P.ReLU() if low == 0 else None,
    "hardsigmoid": lambda: P.HardSigmoid(), "log_sigmoid": lambda: P.LogSigmoid(), "activation": lambda key: lifted_potential(key),
}


def _clip(low, high):
    number = lambda v: isinstance(v, (int, float))
    return P.Clip(float(low), float(high)) if number(low) and number(high) else P.ReLU() if number(low) and low == 0 and high is None else None


def activation_of(kind, node):
    """The activation that a node of a graph is, or None. `kind` is the call's ATen name."""
    if kind not in GRAPH and kind not in CALLS:
        return None
    rest = node.args[1:]
    potential = GRAPH[kind](*rest, **node.kwargs) if kind in GRAPH else None
    if potential is None and kind not in CALLS:
        return None
    return Call(type(potential).__name__ if potential is not None else CALLS[kind], potential, node.target, rest, dict(node.kwargs))
