"""`LiftedTraining`: train a torch network by lifting it."""

import copy
import dataclasses
import fnmatch
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import Names
from ..operators.functional import Functional
from ..operators.module import batch_norms, call_module, copied, drawing, forked
from ..operators.penalties import Penalty
from ..operators.space import Space, all_finite, inner
from .lift import lift
from .lifted import LiftedProblem, check_names
from .losses import Loss, loss_from
from .problem import Point
from .stages import Stage, bind_spaces

__all__ = ["LiftedTraining"]

Data = torch.Tensor | np.ndarray | Sequence | torch.utils.data.Dataset | torch.utils.data.DataLoader


def _tensors(inputs, targets, like=None) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, targets) as tensors, from tensors, arrays, lists, a Dataset or a DataLoader; on the device of the tensor `like`. Numbers in arrays and lists, which are
    double by habit, and targets take its precision; integer labels become int64."""
    if isinstance(inputs, torch.utils.data.DataLoader):
        inputs = inputs.dataset
    if isinstance(inputs, torch.utils.data.Dataset):
        if targets is not None:
            raise ValueError("a Dataset and targets were given; a Dataset already holds its targets, so pass targets=None.")
        if isinstance(inputs, torch.utils.data.IterableDataset):
            raise TypeError("an IterableDataset was given; training draws its samples in any order: pass a Dataset with __len__ and __getitem__, or tensors.")
        pairs = [inputs[i] for i in range(len(inputs))]  # type: ignore[arg-type]
        inputs, targets = (torch.stack([torch.as_tensor(p[k]) for p in pairs]) if pairs else torch.empty(0) for k in (0, 1))
    x, y = (a.clone() if a.is_inference() else a.detach() for a in (_converted(inputs, "inputs"), _converted(targets, "targets")))
    if x.dim() == 0 or y.dim() == 0:
        raise ValueError("a single number was given as inputs or targets; samples go on the first axis.")
    if like is not None:
        if not torch.is_tensor(inputs) and x.is_floating_point():
            x = x.to(like.dtype)
        y = y.to(like.dtype) if y.is_floating_point() else y if y.dtype == torch.bool or y.is_complex() else y.long()
        x, y = x.to(like.device), y.to(like.device)
    return x, y


def _converted(a, name):
    if torch.is_tensor(a) and not a.is_meta:
        return a
    if isinstance(a, (np.ndarray, list, tuple)):
        try:
            return torch.as_tensor(np.asarray(a))
        except (RuntimeError, TypeError, ValueError):
            pass                                                 # no numbers, or of no one shape
    _no_data(a, name)


class _OutOfTable(ValueError):
    pass


def _no_data(a, name):
    if a is None:
        raise TypeError(f"no {name} were given; pass a tensor, an array, or a torch Dataset or DataLoader that holds both.")
    raise TypeError(f"{name} of type {type(a).__name__} were given; pass a tensor, an array, or a torch Dataset or DataLoader.")


class LiftedTraining(LiftedProblem):
    """Train `network` by minimising the lifted objective E(theta, x) of its parameters and all its layers' outputs.

    Parameters
    ----------
    network : torch.nn.Module of one input and one output; it is copied, never changed. Result.network is the trained copy.
    inputs, targets : tensors or arrays with samples on the first axis; or a Dataset/DataLoader and None. A Dataset that augments at random is read anew for each minibatch of
        ISGM, from its seed where it draws from torch's generator; other methods see one draw.
    loss : "cross_entropy", "squared_error", "logistic", "huber", "kullback_leibler", "bregman" (the last layer's own penalty), a Functional, a Penalty or a Loss.
    granularity : where stages end: "activation", "block", or names of submodules (see `lift`).
    penalty : "bregman", "mac", "lifted", "fenchel", a Penalty class or a function potential -> Penalty; or {pattern: one of these} by the activations' places in the network.
    weight_regulariser : Functional with a prox (an indicator is a constraint), for all weights but biases and normalisations;
        or {name pattern: Functional}, patterns as in fnmatch.
    activation_regulariser : {layer number l: Functional} added to the unknown x_l.
    rho : weight of the penalties, a number, {l: number} or a function L -> {l: number}. The sweep of ISGM descends where rho_l >= rho_{l+1} |A_{l+1}|^2; 2 is the smallest
        weight at which one sweep kept the accuracy of back-propagation in our tests (doc/results.md).
    frozen : name patterns of parameters that are not trained.
    validation : (inputs, targets) for the history.
    products : torch.bfloat16 for the products of linear layers with residuals, R W and R^T X, of a float32 problem: faster on processors and GPUs with units for it. Forward passes
        and residuals stay as they are, since sigma(z) - x cancels.

    Raises ValueError/TypeError in a sentence where shapes, dtypes, labels or numbers do not fit, before any work.
    Source: Wang & Benning, JMLR 24(232), 2023.
    """

    def __init__(self, network: nn.Module, inputs: Data, targets: Data | None = None, loss: str | Functional | Penalty | Loss = "cross_entropy",
                 penalty: str | Callable[[Functional], Penalty] | dict[str, Any] = "bregman", weight_regulariser: Functional | dict[str, Functional] | None = None,
                 activation_regulariser: dict[int, Functional] | None = None, rho: float | dict[int, float] | Callable[[int], dict[int, float]] = 2.0,
                 frozen: Names = (), validation: Data | None = None, granularity: Names = "activation", products: torch.dtype | None = None):
        if not isinstance(network, nn.Module):
            raise TypeError(f"{type(network).__name__} was given as the network; it needs a torch.nn.Module, "
                            "for instance torch.nn.Sequential(...) or paralift.networks.chain(...).")
        self.network = copied(network).train()
        first = next(self.network.parameters(), None)
        if first is None:
            raise ValueError(f"{type(network).__name__} has no parameters; a network to train needs at least one layer with weights.")
        check_names(dict(self.network.named_parameters()))
        bad = [name for name, p in self.network.named_parameters() if not all_finite(p.detach())]
        if bad:
            raise ValueError(f"the network's parameters {bad} hold NaN or inf; initialise them anew, or load other weights.")
        self._in_place = [name for name, m in self.network.named_modules() if getattr(m, "inplace", False)]         # lifting turns it off, `finish` on again
        if isinstance(validation, (tuple, list)) and len(validation) != 2:
            raise ValueError(f"validation with {len(validation)} parts was given; it needs (inputs, targets), or a Dataset or DataLoader.")
        pairs = lambda data: _tensors(*(data if isinstance(data, (tuple, list)) and len(data) == 2 else (data, None)), first)  # type: ignore[call-arg]
        self._dataset = inputs.dataset if isinstance(inputs, torch.utils.data.DataLoader) else inputs if isinstance(inputs, torch.utils.data.Dataset) else None
        inputs, targets = _tensors(inputs, targets, first)
        if self._dataset is not None and torch.equal(_tensors(torch.utils.data.Subset(self._dataset, range(min(8, len(inputs)))), None, first)[0], inputs[:8]):
            self._dataset = None                                 # it gives the same samples every time
        if products not in (None, torch.bfloat16, torch.float16) or products is not None and first.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"products={products!r} was given for a network in {first.dtype}; it needs None, or torch.bfloat16 for a network in float32.")
        self.validation = None if validation is None else pairs(validation)
        for name, data in (("", (inputs, targets)), ("validation: ", self.validation)):
            if data is not None:
                self._check_data(data[0], data[1], first.dtype, name)
                self._check_indices(data[0], name)
        self._check_one_sample(inputs)
        few = inputs[:4] if len(inputs) > 1 else torch.cat([inputs, inputs])
        stages = lift(self.network, few, granularity, penalty)
        for stage in stages:
            stage.products = products
        ends_in_activation, self._last_penalty = stages[-1].penalty is not None, None
        if loss == "bregman":
            if not ends_in_activation:
                raise ValueError("loss='bregman' was given for a network that ends in no activation; end it in one (torch.nn.Softmax, ReLU, ...), "
                                 "or use loss='squared_error', which is the same for the identity.")
            self._last_penalty, stages[-1].penalty = stages[-1].penalty, None                # the last activation is tied to the target itself
        elif ends_in_activation:
            stages.append(Stage(len(stages) + 1, nn.Identity(), {}, None))
        theta = dict(self.network.named_parameters())
        z = bind_spaces(stages, few, {name: p.detach() for name, p in theta.items()})
        if self._last_penalty is not None:
            self._last_penalty = self._last_penalty.on(stages[-1].elements)
        loss = loss_from(loss, self._last_penalty)
        loss.check(z[:1].expand(len(targets), *z.shape[1:]), targets)
        rho = self._rho(rho, len(stages))
        names = [name for s in stages for name in s.theta]
        fixed = _frozen(frozen, names) | {name for name, p in theta.items() if not p.requires_grad}
        regularisers = {name: R for name, R in _weight_regularisers(weight_regulariser, names, theta).items() if name not in fixed}
        self._without_extra, extra = list(stages), _activation_regularisers(activation_regulariser, stages)
        for l, S in extra.items():
            try:
                stages[l - 1] = self._with_extra(stages[l - 1], S, rho[l])
            except ValueError as error:
                raise ValueError(f"activation_regulariser[{l}] = {activation_regulariser[l]!r} was given: {error}") from None  # type: ignore[index]
        super().__init__(stages, loss, inputs, targets, rho, regularisers, extra, fixed)
        self.initial = {name: p.detach().clone() for name, p in theta.items()}
        self._buffers = self.buffers()
        if self.validation is not None:
            x, y = self.validation
            if x.shape[1:] != inputs.shape[1:]:
                raise ValueError(f"validation: inputs of shape {tuple(x.shape[1:])} a sample were given; training has {tuple(inputs.shape[1:])}.")
            self.loss.check(z[:1].expand(len(y), *z.shape[1:]), y)

    @staticmethod
    def _check_data(inputs, targets, dtype, name):
        if len(inputs) == 0:
            raise ValueError(f"{name}no samples were given; at least one is needed.")
        if len(inputs) != len(targets):
            raise ValueError(f"{name}{len(inputs)} inputs and {len(targets)} targets were given; every input needs one target.")
        if (inputs.is_floating_point() or inputs.is_complex()) and inputs.dtype not in (dtype, dtype.to_complex()):
            raise TypeError(f"{name}inputs of dtype {inputs.dtype} were given; the network's parameters are {dtype}: convert one with .to(...).")
        for what, values in (("inputs", inputs), ("targets", targets)):
            if (values.is_floating_point() or values.is_complex()) and not all_finite(values):
                raise ValueError(f"{name}the {what} hold NaN or inf; remove or repair those samples.")

    def _check_indices(self, inputs, name):
        """Refuse integers outside the tables of the network's embeddings: the samples that hold the largest or the smallest number at some place pass through them."""
        if inputs.is_floating_point() or inputs.is_complex():
            return

        def check(module, x):
            low, high, size = int(x[0].min()), int(x[0].max()), module.num_embeddings
            if low < 0 or high >= size:
                raise _OutOfTable(f"{name}an Embedding got numbers from {low} to {high}; its table of {size} rows needs 0 to {size - 1}: widen it or mend the inputs.")

        flat = inputs.flatten(1)
        rows = torch.unique(torch.cat([flat.argmax(0), flat.argmin(0)]))
        hooks = [m.register_forward_pre_hook(check) for m in self.network.modules() if isinstance(m, nn.Embedding)]
        self.network.eval()
        try:
            with torch.no_grad():
                for part in rows.split(128) if hooks else ():
                    self.network(inputs[part])
        except _OutOfTable as error:
            raise ValueError(str(error)) from None
        except (RuntimeError, IndexError, ValueError, TypeError):        # explained where the stages are tried
            pass
        finally:
            self.network.train()
            for hook in hooks:
                hook.remove()

    def _check_one_sample(self, inputs):
        """Find out whether a normalisation needs two samples, and refuse a data set of one."""
        self.least_samples = 1
        if batch_norms(self.network):
            try:
                with torch.no_grad():
                    call_module(self.network, dict(self.network.named_parameters()), inputs[:1], 0)
            except ValueError as error:
                self.least_samples = 2 if "more than 1 value per channel" in str(error) else 1
            except (RuntimeError, IndexError, TypeError):                # explained where the stages are tried
                pass
        self._check_size(len(inputs))

    @staticmethod
    def _rho(rho, depth, default=2.0) -> dict[int, float]:
        rho = rho(depth) if callable(rho) else rho
        if not isinstance(rho, (int, float, dict)) or isinstance(rho, dict) and not all(l in range(1, depth) for l in rho):
            raise ValueError(f"rho={rho!r} was given; it needs a positive number, or {{layer: number}} for the layers 1 to {depth - 1}.")
        table = {l: float(rho.get(l, default) if isinstance(rho, dict) else rho) for l in range(1, depth)}
        for l, value in table.items():
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"rho = {value} was given for layer {l}; a penalty weight needs a positive finite number.")
        return table

    def draw(self, samples, anchor=None, tau=math.inf, seed=0):
        """`restrict`, on samples read anew where the data came as a Dataset that is random (augmentation); torch's generator is at `seed` meanwhile."""
        sub = self.restrict(samples, anchor, tau, seed)
        if self._dataset is not None:
            with drawing, forked(self.inputs.device):
                torch.manual_seed(seed)
                sub.inputs, sub.targets = _tensors(torch.utils.data.Subset(self._dataset, samples.tolist()), None, self.inputs)
            if sub.inputs.shape[1:] != self.inputs.shape[1:]:
                raise ValueError(f"the Dataset gave samples of shape {tuple(sub.inputs.shape[1:])}, and {tuple(self.inputs.shape[1:])} before; all need the same shape.")
        return sub

    def reweighted(self, rho: float | dict[int, float] | Callable[[int], dict[int, float]]) -> "LiftedTraining":
        """The same problem with other weights of the penalties, for continuation: solve at a small rho, then go on from that result with a larger one,
        `PGD(400).solve(problem.reweighted(10 * rho), resume=result)`. As rho grows x tends to the forward pass; `problem.forward(result.x)` puts it there."""
        new = copy.copy(self)
        new.rho, new.stages, new._kept = self._rho(rho, self.depth), list(self._without_extra), {}
        for l, S in self.extra.items():
            new.stages[l - 1] = self._with_extra(new.stages[l - 1], S, new.rho[l])
        return new

    @staticmethod
    def _with_extra(stage, S, rho):
        """The stage whose penalty holds S / rho."""
        return dataclasses.replace(stage, penalty=stage.penalty.plus((1 / rho) * S))

    # ---- points
    def start(self):
        """Initial parameters and the forward pass's activations: a consistent point, where every penalty but the loss is zero."""
        return self.forward(self.start_theta())

    def start_theta(self) -> Point:
        """The initial parameters; buffers go back to their first values."""
        self.set_buffers(self._buffers)
        return super().start_theta()

    # ---- what the user sees
    def predict(self, point: Point, inputs: torch.Tensor, batch_size: int = 4096) -> torch.Tensor:
        """The forward network's output, in evaluation mode."""
        self.network.eval()
        try:
            theta = {name: point[name] for name in self.initial}
            with torch.no_grad():
                return torch.cat([torch.func.functional_call(self.network, theta, (inputs[i:i + batch_size],)) for i in range(0, len(inputs), batch_size)])
        finally:
            self.network.train()

    def _settle_statistics(self, point):
        """A point that holds x comes from a method on all samples: the running statistics of normalisations are then those of all samples at its parameters."""
        norms = [m for m in batch_norms(self.network) if m.track_running_stats] if "x1" in point else []
        if norms:
            momenta = [m.momentum for m in norms]
            try:
                for m in norms:
                    m.momentum = 1.0
                with torch.no_grad(), forked(self.inputs.device):
                    theta = {name: point[name].to(v.device) for name, v in self.initial.items()}
                    torch.func.functional_call(self.network, theta, (self.inputs,))
            finally:
                for m, momentum in zip(norms, momenta):
                    m.momentum = momentum

    def metrics(self, point):
        """Validation loss and accuracy of the *forward* network, and the penalty residual |x - sigma(z)| / |sigma(z)| where x is at hand."""
        columns = {}
        self._settle_statistics(point)
        if self.validation is not None:
            inputs, targets = self.validation
            z = self.predict(point, inputs)
            if self._last_penalty is None:
                columns["validation_loss"] = float(self.loss.value(z, targets).mean())
            if self.loss.classifies:
                counted = torch.ones_like(targets, dtype=torch.bool) if getattr(self.loss, "ignore_index", None) is None else targets != self.loss.ignore_index
                columns["accuracy"] = int(((z.argmax(-1) == targets) & counted).sum()) / max(int(counted.sum()), 1)
            if not self.loss.classifies:
                columns["validation_error"] = float(inner(z - targets, z - targets, z.dim() - 1).mean())
        if "x1" in point and len(point["x1"]) == self.samples:
            residuals = self.penalty_residuals(point)
            columns["penalty_residual"] = max(residuals.values())
        return columns

    def finish(self, point):
        """The trained network, an ordinary torch module in evaluation mode."""
        self._settle_statistics(point)
        network = copied(self.network)
        for name in self._in_place:
            network.get_submodule(name).inplace = True
        with torch.no_grad():
            for name, p in network.named_parameters():
                p.copy_(point[name])
        return network.eval()

    def _table(self, title):
        """Lines: the stages, and the numbers of unknowns."""
        count = sum(p.numel() for n, p in self.initial.items() if n not in self.frozen)
        unknowns = {s.index: self.samples * math.prod(s.space) for s in self.stages[:-1]}
        size = self.inputs.element_size() if self.inputs.is_floating_point() else 4
        chain = all(s.parents == (s.index - 1,) for s in self.stages)
        parents = lambda text: "" if chain else f"{text:<9.9} "
        lines = [f"{title}: {self.samples} samples, {len(self.stages)} stages, loss {type(self.loss).__name__}",
                 f"  {'stage':>5}  {parents('parents')}{'operator':<34} {'output':<16} {'penalty':<34} {'parameters':>10} {'unknowns x':>12}"]
        for s in self._without_extra:
            tie = f"{s.penalty!r}" if s.penalty is not None else "(loss)"
            own = sum(self.initial[n].numel() for n in s.theta)
            tie = re.sub(r" on \([^()]*\)", "", tie)
            lines.append(f"  {s.index:>5}  {parents(', '.join(map(str, s.parents)))}{s.operator:<34.34} {s.space!s:<16} {tie:<34.34} {own:>10,} {unknowns.get(s.index, 0):>12,}")
        total = sum(unknowns.values())
        lines.append(f"  trained parameters {count:,}; unknowns x {total:,}; memory: full problem {2 * (total + count) * size / 2**20:.1f} MiB, "
                     f"a minibatch of 128 {2 * (total / max(self.samples, 1) * 128 + count) * size / 2**20:.1f} MiB")
        return lines + [f"  {name}: {R!r}" for name, R in (*self.regularisers.items(), *((f"x{l}", S) for l, S in self.extra.items()))]

    def __repr__(self):
        numbers, size = self.table_numbers(), self.inputs.element_size() if self.inputs.is_floating_point() else 4
        table = "none, a stage is not affine in its parameters" if numbers is None else f"residuals and inputs, {numbers:,} numbers, {numbers * size / 2**20:.1f} MiB"
        return "\n".join([*self._table("LiftedTraining"), f"  gradient table (SAGA, PIAG): {table}"])


# ---- what was given, by the names of parameters and the numbers of layers
def _matching(pattern, names):
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _frozen(patterns, names):
    """The names that the patterns mean."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    lost = [pattern for pattern in patterns if not _matching(pattern, names)]
    if lost:
        raise ValueError(f"frozen {lost} match no parameter; the network has {names}.")
    return {name for pattern in patterns for name in _matching(pattern, names)}


def _weight_regularisers(given, names, theta):
    """{name: R, on the parameter's space}."""
    found, everywhere = {}, not isinstance(given, dict)
    for pattern, R in ({} if given is None else {"*": given} if everywhere else given).items():
        if not isinstance(R, Functional) or not R.has_prox:
            raise TypeError(f"weight_regulariser {pattern!r}: {R!r} was given; it needs a Functional with a prox, for instance 1e-5 * L1Norm().")
        hit = [name for name in _matching(pattern, names) if not everywhere or theta[name].dim() > 1]
        if not hit:
            raise ValueError(f"weight_regulariser {pattern!r} matches no parameter; the network has {names}.")
        found.update({name: R.on(Space.of(theta[name].detach())) for name in hit})
    return found


def _activation_regularisers(given, stages):
    """{l: S, on the space of x_l}."""
    if given is not None and not isinstance(given, dict):
        raise TypeError(f"activation_regulariser={given!r} was given; it needs {{layer number: Functional}}, for instance {{1: 0.1 * L1Norm()}}.")
    for l, S in (given or {}).items():
        if l not in range(1, len(stages)):
            raise ValueError(f"activation_regulariser for layer {l} was given; the lifted layers are 1 to {len(stages) - 1}.")
        if not isinstance(S, Functional) or not S.has_prox:
            raise TypeError(f"activation_regulariser[{l}] = {S!r} was given; it needs a Functional with a prox.")
    return {l: S.on(stages[l - 1].elements) for l, S in (given or {}).items()}
