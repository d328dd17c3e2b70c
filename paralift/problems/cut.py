"""A network of torch.nn layers cut into a chain of stages, and the penalty that each stage gets."""

import fnmatch

from torch import nn

from .. import operators as P
from ..notices import warn
from ..operators.module import is_random
from ..operators.penalties import MAC, Fenchel, Lifted, LiftedBregman, Penalty
from .activations import NO_PROX, potential_of
from .stages import Stage

__all__ = ["Binder", "cut", "leaves_of"]

# potentials near an activation that has none (elsewhere: ReLU, Softplus)
NEAR = {"GELU": "Softplus, ReLU", "SiLU": "Softplus, ReLU", "Mish": "Softplus, ReLU", "Hardswish": "ReLU, ReLU6", "Tanhshrink": "SoftThreshold", "Hardshrink": "SoftThreshold",
        "Softsign": "Tanh", "RReLU": "LeakyReLU",
        "LeakyReLU": "LeakyReLU with a slope in (0, 1]", "Threshold": "ReLU", "ELU": "ELU with alpha <= 1", "CELU": "ELU", "Softmin": "Softmax"}
PENALTIES = {"bregman": LiftedBregman, "mac": MAC, "lifted": Lifted, "fenchel": Fenchel}


class Negative(nn.Module):
    """x -> -x."""

    def forward(self, x):
        return -x


class Binder:
    """The penalty of each activation, from what the user gave: a name, a class, a function potential -> Penalty, or {pattern: one of these} by the activation's place.

    Activations without a potential get MAC, and one warning for all; SELU, of slope above 1, gets Fenchel.
    """

    def __init__(self, penalty):
        self.table = penalty if isinstance(penalty, dict) else {"*": penalty}
        self.used, self.by_mac, self.kinds = set(), [], {}

    def _chosen(self, place):
        for pattern, penalty in self.table.items():
            if fnmatch.fnmatchcase(place, pattern):
                self.used.add(pattern)
                return penalty
        return "bregman"

    def __call__(self, place, kind, potential=None, activation=None):
        """The penalty of the activation of class name `kind` at `place`; `activation` is the callable where there is no potential."""
        penalty, label = self._chosen(place), f"layer {place} ({kind})"
        if potential is None and kind == "SELU" and penalty in ("bregman", "fenchel", LiftedBregman, Fenchel):
            return Fenchel(P.SELUEnergy(), activation=activation, slope=P.SELUEnergy.slope)
        if potential is None:
            if penalty not in ("mac", MAC) and not isinstance(penalty, MAC):
                self.by_mac.append(label)
                self.kinds[kind] = NEAR.get(kind, "ReLU, Softplus")
            return MAC(None, activation=activation)
        if isinstance(penalty, str):
            if penalty not in PENALTIES:
                raise ValueError(f"penalty={penalty!r} was given for {label}; choose one of {sorted(PENALTIES)}, or a Penalty class.")
            return PENALTIES[penalty](potential)
        if isinstance(penalty, MAC) and penalty.free:
            return MAC(potential)
        if isinstance(penalty, Penalty):
            raise TypeError(f"penalty={penalty!r} was given, which is bound to its own potential; every layer needs its own: pass the class {type(penalty).__name__}, "
                            "or a function potential -> Penalty.")
        bound = penalty(potential) if callable(penalty) else None
        if not isinstance(bound, Penalty):
            raise TypeError(f"penalty={penalty!r} was given for {label}; it needs a name, a Penalty class, or a function potential -> Penalty.")
        return bound

    def finish(self, places):
        unknown = [pattern for pattern in self.table if pattern not in self.used and pattern != "*"]
        if unknown:
            raise ValueError(f"penalty patterns {unknown} match no lifted layer; the layers are {', '.join(places)}.")
        if self.by_mac:
            warn(f"{', '.join(self.by_mac)}: no proximal map that we know, so these stages get the MAC penalty with a local derivative. "
                          f"Near potentials: {'; '.join(f'for {kind} {near}' for kind, near in self.kinds.items())}.")


def leaves_of(network):
    """[(name, module)] of a `torch.nn.Sequential` (nested ones opened; a module used twice counts twice), or of a single layer; None where a part has a
    forward of its own, so that its graph must be found (`lift`)."""
    leaves = []

    def open_up(module, prefix):
        for name, child in module._modules.items():
            if type(child) is nn.Sequential:
                open_up(child, f"{prefix}{name}.")
            else:
                leaves.append((f"{prefix}{name}", child))

    if type(network) is nn.Sequential:
        open_up(network, "")
    else:
        leaves.append(("", network))
    single = lambda m: not any(True for _ in m.children()) or type(m).__module__.startswith("torch.nn.")
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    return leaves if all(single(m) for _, m in leaves) and not hooked else None


def cut(network, penalty="bregman"):
    """Stages of a chain of layers (see `leaves_of`): a stage ends at every activation. Modules that work in place are told not to: their input is an unknown."""
    for m in network.modules():
        if getattr(m, "inplace", False):
            m.inplace = False
    stages, pending, bind, names = [], [], Binder(penalty), {id(p): name for name, p in network.named_parameters()}

    def close(stage_penalty, label):
        modules = [m for _, m in pending]
        module = modules[0] if len(modules) == 1 else nn.Sequential(*modules) if modules else nn.Identity()
        theta = {}
        for position, (_, m) in enumerate(pending):
            for inside, p in m.named_parameters():
                theta[names[id(p)]] = inside if len(modules) == 1 else f"{position}.{inside}"
        stages.append(Stage(len(stages) + 1, module, theta, stage_penalty, label=label, random=is_random(module)))
        pending.clear()

    for name, module in leaves_of(network):
        potential = potential_of(module)
        if isinstance(module, nn.Softmin) and potential is not None:        # softmax of -z, which belongs to A
            pending.append((name, Negative()))
        if potential is not None or isinstance(module, NO_PROX):
            close(bind(name, type(module).__name__, potential, module), name)
        else:
            pending.append((name, module))
    bind.finish([s.label for s in stages])
    if pending:
        close(None, "")
    return stages
