"""A torch module as an operator with parameters."""

import copy
import threading

import torch
from torch import nn
from torch.func import functional_call, vjp
from torch.fx import GraphModule

from ..arguments import reason
from .operator import Operator, push_forward
from .space import Space, SpaceLike

__all__ = ["ModuleOperator", "batch_norms", "call_module", "copied", "drawing", "forked", "is_random"]

drawing = threading.RLock()        # torch has one generator for all threads of a process: who seeds it holds this lock until the numbers are drawn


def is_random(module):
    """Whether `module` draws random numbers while it trains (Dropout, RReLU, dropout inside an attention or a recurrent layer)."""
    return any(isinstance(m, (nn.modules.dropout._DropoutNd, nn.RReLU)) or getattr(m, "dropout", 0) not in (0, None, False) for m in module.modules())


def forked(device):
    """A context after which torch's generators, of the CPU and of `device`, are as they were before."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def batch_norms(module):
    """The normalisations in `module` that couple the samples of a batch."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def copied(module):
    """A deep copy; tensors that modules keep of a forward pass (the weight of weight_norm) come without their graph, which torch does not copy."""
    kept = {id(v): v.detach().clone() for m in module.modules() for v in vars(m).values() if torch.is_tensor(v) and v.grad_fn is not None}
    return copy.deepcopy(module, kept)


def call_module(module, parameters, x, seed=None, update_buffers=False):
    """module(x), or module(*x) for a tuple, with `parameters` {name: tensor}; buffers (running statistics) keep their values unless told, `seed` draws what is random."""
    state, x = parameters, x if isinstance(x, tuple) else (x,)
    if module.training and not update_buffers:
        state = {**parameters, **{name: b.clone() for name, b in module.named_buffers()}}
    if seed is None:
        return _stateless(module, state, x)
    with drawing, forked(x[0].device):
        torch.manual_seed(seed)
        return _stateless(module, state, x)


def _stateless(module, state, x):
    """torch's functional_call; a graph, whose tensors all lie at its root, has its tables exchanged, which takes a tenth of the time."""
    if not isinstance(module, GraphModule) or next(module.children(), None) is not None:
        return functional_call(module, state, x)
    parameters, buffers = module._parameters, module._buffers
    try:
        module.__dict__["_parameters"] = {name: state.get(name, p) for name, p in parameters.items()}
        module.__dict__["_buffers"] = {name: state.get(name, b) for name, b in buffers.items()}
        return module.forward(*x)
    finally:
        module.__dict__["_parameters"], module.__dict__["_buffers"] = parameters, buffers


class ModuleOperator(Operator):
    """x -> module(x; theta): `op(x)`, `op.derivative(x)` with its adjoint, `op.parameter_derivative(x)`; all local, by torch.func.

    Parameters
    ----------
    module : torch.nn.Module with one input and one output, whose first axis is the batch; used as it is, in its own mode and never changed:
        batch normalisation keeps its running statistics, dropout draws the same mask in every call.
    input_shape : shape of an element without batch axes, or a Space (for integer inputs: Space(shape, torch.int64)).

    Any number of batch axes, in front; batch normalisation in training mode couples them. Raises ValueError where the module refuses the shape.
    """

    def __init__(self, module: nn.Module, input_shape: SpaceLike):
        if not isinstance(module, nn.Module):
            raise TypeError(f"ModuleOperator got {type(module).__name__}; it needs a torch.nn.Module.")
        self.module, self.random = module, is_random(module)
        first = next(module.parameters(), torch.empty(0))
        domain = input_shape if isinstance(input_shape, Space) else Space(input_shape, first.dtype, first.device)
        with torch.no_grad():
            try:
                z = call_module(module, self.parameters, domain.zero(2), 0)
            except (RuntimeError, IndexError, ValueError) as error:
                raise ValueError(f"{type(module).__name__} refused an input of shape {(2, *domain.shape)}, dtype {domain.dtype}: {reason(error)}. "
                                 "Make input_shape fit the module, without batch axes.") from None
        super().__init__(domain, Space(tuple(z.shape[1:]), z.dtype, z.device))

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """{name: tensor}, without a graph."""
        return {name: p.detach() for name, p in self.module.named_parameters()}

    def _apply(self, parameters, x):
        batch = x.shape[:x.dim() - self.domain.ndim]
        z = call_module(self.module, parameters, x.reshape(-1, *self.domain.shape), 0 if self.random and self.module.training else None)
        return z.reshape(*batch, *z.shape[1:])

    def _call(self, x):
        return self._apply(self.parameters, x)

    def derivative(self, x):
        self._fit(x)
        if not x.is_floating_point() and not x.is_complex():
            raise TypeError(f"the derivative of {self!r} at an input of dtype {x.dtype} was asked for; integer inputs have none: use parameter_derivative(x).")
        return super().derivative(x)

    def parameter_derivative(self, x: torch.Tensor) -> "_ParameterDerivative":
        """J = d module(x; theta) / d theta: `J({name: dtheta})` -> tensor (names left out count as zero), `J.adjoint(r)` -> {name: tensor}, summed over the batch."""
        self._fit(x)
        return _ParameterDerivative(self, x)

    def __repr__(self):
        return f"ModuleOperator({type(self.module).__name__}, {self.domain.shape} -> {self.range.shape})"


class _ParameterDerivative:
    def __init__(self, op, x):
        self.op, self.x, self.theta = op, x, op.parameters

    def _map(self, theta):
        return self.op._apply(theta, self.x)

    def __call__(self, direction):
        wrong = [name for name, d in direction.items() if name not in self.theta or d.shape != self.theta[name].shape]
        if wrong:
            raise ValueError(f"parameter_derivative got directions for {wrong}; the parameters are { {name: tuple(p.shape) for name, p in self.theta.items()} }.")
        full = {name: direction[name] if name in direction else torch.zeros_like(p) for name, p in self.theta.items()}
        return push_forward(self._map, self.theta, full)

    def adjoint(self, r):
        return vjp(self._map, self.theta)[1](r)[0]
