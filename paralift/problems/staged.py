"""A network given stage by stage, for modules that torch.export refuses."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..arguments import checked
from ..operators import Identity
from ..operators.functional import Functional
from ..operators.module import is_random
from ..operators.potentials import activation
from .stages import Stage, space_of

__all__ = ["Staged"]


@checked
class Staged(nn.Module):
    """`Staged([(module, potential, parents), ...])`: x_l = sigma_l(module_l(x_p, ...)), p the parents of l; parent 0 is the data, the last stage's output the network's.

    module : torch.nn.Module of as many inputs as it has parents; a module may be used by several stages (tied weights).
    potential : of the activation after it; None for none (the last stage's belongs to the loss).
    parents : an integer or several; the stage before where left out.

    Raises ValueError where a parent is no earlier stage (the graph has a cycle), or an output is used by nobody; TypeError for other parts.
    """

    def __init__(self, stages: Sequence[tuple | nn.Module]):
        super().__init__()
        self.operators, self.potentials, self.parents = nn.ModuleList(), [], []
        for l, part in enumerate(stages, 1):
            if isinstance(part, (tuple, list)) and not 1 <= len(part) <= 3:
                raise ValueError(f"Staged got {part!r} as stage {l}; it needs (torch.nn.Module, potential or None, parents).")
            module, potential, parents = (*part, *(None, l - 1)[len(part) - 1:]) if isinstance(part, (tuple, list)) else (part, None, l - 1)
            parents = (parents,) if isinstance(parents, int) else tuple(parents)
            if not isinstance(module, nn.Module) or not (potential is None or isinstance(potential, Functional)):
                raise TypeError(f"Staged got {part!r} as stage {l}; it needs (torch.nn.Module, potential or None, parents).")
            if not parents or not all(isinstance(p, int) and 0 <= p < l for p in parents):
                raise ValueError(f"Staged got the parents {parents} for stage {l}; they need to be earlier stages, from 0 (the data) to {l - 1}: the graph may have no cycle.")
            self.operators.append(module)
            self.potentials.append(potential)
            self.parents.append(parents)
        unused = set(range(1, len(self.parents))) - {p for parents in self.parents for p in parents}
        if not self.parents or unused:
            raise ValueError(f"Staged got {'no stages' if not self.parents else f'stages {sorted(unused)} whose output nobody uses'}; leave them out, or name them as parents.")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for module, potential, parents in zip(self.operators, self.potentials, self.parents):
            z = module(*(values[p] for p in parents))
            values.append(z if potential is None else activation(potential.on(space_of(z)), z))
        return values[-1]

    def stages(self, bind: Callable) -> list[Stage]:
        """The stages to lift; `bind` gives each its penalty."""
        names, made, last = {id(p): name for name, p in self.named_parameters()}, [], len(self.parents)
        for l, (module, potential, parents) in enumerate(zip(self.operators, self.potentials, self.parents), 1):
            ends = l == last and potential is None
            penalty = None if ends else bind(f"operators.{l - 1}", "Identity" if potential is None else type(potential).__name__, potential or Identity())
            theta = {names[id(p)]: inside for inside, p in module.named_parameters()}
            made.append(Stage(l, module, theta, penalty, parents, label=f"operators.{l - 1}", random=is_random(module)))
        return made

    @classmethod
    def example(cls) -> tuple["Staged", torch.Tensor]:
        from ..operators import ReLU, Softmax

        class Scores(nn.Module):
            def forward(self, q, k):
                return q.unsqueeze(-1) * k.unsqueeze(-2)

        class Mix(nn.Module):
            def __init__(self):
                super().__init__()
                self.out = nn.Linear(3, 3)

            def forward(self, weights, x):
                return self.out((weights @ x.unsqueeze(-1)).squeeze(-1)) + x

        return cls([(nn.Linear(4, 3), ReLU()), (nn.Linear(3, 3), None, 1), (Scores(), Softmax(), (1, 2)), (Mix(), ReLU(), (3, 1)), nn.Linear(3, 3)]), torch.randn(4, 4)
