"""`lift`: any torch module as a directed acyclic graph of stages, found by torch.export."""

import fnmatch
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ..arguments import Names, checked
from ..operators.functional import Functional
from ..operators.penalties import Penalty
from ..operators.potentials import Identity
from .activations import activation_of
from .cut import Binder, cut, leaves_of
from .export import VIEWS, exported, finite_mask, is_value, kind_of, place_of
from .loans import mark_pieces
from .staged import Staged
from .stages import Stage

__all__ = ["lift", "StageGraph"]

RANDOM = {"dropout", "feature_dropout", "alpha_dropout", "native_dropout", "rrelu", "bernoulli", "rand_like", "randn_like", "scaled_dot_product_attention"}


class StageGraph(list):
    """The stages of a network, parents before children; the last one ends in the output. Prints as a table."""

    def __repr__(self):
        lines = [f"{'stage':>5}  {'parents':<10} {'place':<32} {'operator':<40} {'penalty':<28} {'parameters':>10}"]
        for s in self:
            tie = "(output)" if s.penalty is None else repr(s.penalty).split(" on ")[0]
            size = sum(p.numel() for p in s.module.parameters())
            lines.append(f"{s.index:>5}  {', '.join(map(str, s.parents)):<10.10} {s.label[-32:]:<32} {s.operator:<40.40} {tie:<28.28} {size:>10,}")
        return "\n".join(lines)


@checked
def lift(module: nn.Module, example_inputs: torch.Tensor, granularity: Names = "activation",
         penalty: str | Callable[[Functional], Penalty] | dict[str, Any] = "bregman") -> StageGraph:
    """Cut `module` into stages x_l = sigma_l(A_l(x_p; theta_l)), p the parents of l.

    Parameters
    ----------
    module : torch.nn.Module with one input and one output tensor, samples on the first axis of both; stages use its own parameters and buffers, in its own mode.
    example_inputs : a small batch (at least 2 samples) as the module takes it.
    granularity : "activation": a stage ends at every activation, and at every value that several stages need (a residual stream, a normalised input of queries and
        values), which is lifted with the identity as its activation. "block": at the outputs of the children of every ModuleList or Sequential of non-layers only;
        a list of patterns: at the outputs of these submodules. Activations inside a coarser stage belong to its operator and are differentiated locally, with it.
    penalty : as in LiftedTraining, or {pattern of places: penalty}; a place is the submodule that computes the activation.

    Returns a StageGraph. Raises ValueError where torch.export refuses the module, naming the place, and where a pattern matches nothing.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"{type(module).__name__} was given as the network; it needs a torch.nn.Module, for instance torch.nn.Sequential(...) or paralift.networks.chain(...).")
    if isinstance(module, Staged):
        bind = Binder(penalty)
        stages = module.stages(bind)
        bind.finish([s.label for s in stages])
        return StageGraph(stages)
    if granularity == "activation" and leaves_of(module) is not None:
        return StageGraph(cut(module, penalty))
    graph = exported(module, example_inputs)
    ends = _ends(module, graph, granularity)
    bind = Binder(penalty)
    stages = _Cutter(module, graph, ends, bind).stages()
    bind.finish([s.label for s in stages if s.label])
    return StageGraph(stages)


# ---- where stages end
def _ends(module, graph, granularity):
    """{node: activation or None}: the nodes that end a stage, before shared values are added."""
    if granularity == "activation":
        found = {node: activation_of(kind_of(node), node) for node in graph.nodes if node.op == "call_function"}
        return {node: a for node, a in found.items() if a is not None}
    if granularity == "block":
        names = {name for name, m in module.named_modules() if isinstance(m, (nn.ModuleList, nn.Sequential))}
        blocks = {name for name, m in module.named_modules() if name.rpartition(".")[0] in names and name and any(True for _ in m.children())}
        wanted = {name for name in blocks if not any(name.startswith(other + ".") for other in blocks)}
        if not wanted:
            raise ValueError(f"granularity='block' was given, and {type(module).__name__} holds no ModuleList or Sequential of blocks; "
                             "pass the submodules' names, or 'activation'.")
    else:
        patterns, known = [granularity] if isinstance(granularity, str) else list(granularity), [name for name, _ in module.named_modules() if name]
        missing = [p for p in patterns if not fnmatch.filter(known, p)]
        if missing or not patterns:
            raise ValueError(f"granularity: {missing or patterns} match no submodule; it needs 'activation', 'block' or patterns of names such as {known[:4]}.")
        wanted = {name for p in patterns for name in fnmatch.filter(known, p)}
    ends = {}
    for name in wanted:
        inside = [node for node in graph.nodes if node.op == "call_function" and any(path == name for path, _ in (node.meta.get("nn_module_stack") or {}).values())]
        out = [node for node in inside if is_value(node) and any(user not in inside for user in node.users)]
        if out:
            a = activation_of(kind_of(out[-1]), out[-1])
            ends[out[-1]] = a
    return ends


# ---- the stages
class _Cutter:
    """From the graph and the nodes that end stages to the stages."""

    def __init__(self, module, graph, ends, bind):
        self.module, self.graph, self.bind = module, graph, bind
        self.data = next(node for node in graph.nodes if node.op == "placeholder")
        self.output = graph.output_node().args[0]
        self.output = self.output[0] if isinstance(self.output, (tuple, list)) else self.output
        self.tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.moving = self._downstream({self.data})
        self.learned = self._downstream({node for node in graph.nodes if node.op == "get_attr" and isinstance(self._tensor(node.target)[0], nn.Parameter)})
        self.ends = {node: a for node, a in ends.items() if node in self.moving}
        self._share()
        self.position = {node: i for i, node in enumerate(graph.nodes)}

    def _downstream(self, nodes):
        """`nodes` and all that depends on them."""
        found = set(nodes)
        for node in self.graph.nodes:
            if any(a in found for a in node.all_input_nodes):
                found.add(node)
        return found

    def _share(self):
        """Values that several stages need become stages of their own; views of unknowns, sizes and masks are made where they are needed instead."""
        owners = {node: set() for node in self.graph.nodes}
        for node in reversed(self.graph.nodes):
            if node.op in ("placeholder", "get_attr"):
                continue
            own = {node} if node in self.ends or node.op == "output" else owners[node]
            if node not in self.ends and node.op == "call_function" and len(own) > 1 and node in self.moving and is_value(node) and not self._free(node):
                self.ends[node], own = None, {node}
            for a in node.all_input_nodes:
                owners[a] |= own

    def _free(self, node):
        """A view of what may be a stage itself (the only view of a value stands for it, unless another axis comes before the samples then), or a value made of sizes and masks."""
        if kind_of(node) in VIEWS:
            source = node.args[0]
            if not self._samples_first(node):
                return True
            return source in self.ends or source.op != "call_function" or len(source.users) > 1
        return node not in self.learned and not any(is_value(a) and a in self.moving for a in node.all_input_nodes)

    def _samples_first(self, node):
        first = lambda value: str(tuple(value.meta["val"].shape)[:1])
        return first(node) == first(self.data)

    def stages(self):
        ends = sorted(self.ends, key=self.position.get)
        last = self.output if self.output not in self.ends or self.ends[self.output] is None or any(user.op != "output" for user in self.output.users) else None
        numbers = {self.data: 0, **{node: i + 1 for i, node in enumerate(ends)}}
        stages = []
        for node in ends:
            a = self.ends[node]
            place, kind = place_of(node), "identity" if a is None else a.kind
            penalty = self.bind(place or node.name, kind, a.potential if a else Identity(), a)
            stages.append(self._stage(len(stages) + 1, node.args[0] if a is not None else node, node, numbers, penalty, place or node.name))
        if last is not None:
            if last in self.ends:
                stages.append(Stage(len(stages) + 1, nn.Identity(), {}, None, parents=(numbers[last],)))
            else:
                stages.append(self._stage(len(stages) + 1, last, None, numbers, None, ""))
        self._effects(stages)
        return stages

    def _stage(self, index, z, end, numbers, penalty, label):
        """The operator that computes node `z` from the ends before it."""
        found, stack, sized = {}, [z], False
        while stack:
            node = stack.pop()
            if node in found:
                continue
            if self._is_batch_size(node):
                sized = True
                continue
            if node in numbers and node is not end:
                found[node] = "parent"
            elif node.op == "get_attr":
                found[node] = "tensor"
            else:
                found[node] = "inner"
                stack.extend(node.all_input_nodes)
        if sized and not any(what == "parent" and self._counts_samples(n) for n, what in found.items()):
            found[self.data] = "parent"
        parents = sorted((n for n, what in found.items() if what == "parent"), key=numbers.get)
        if not parents:
            raise ValueError(f"stage {label} depends on no unknown and not on the data; it cannot be a stage of its own.")
        small = fx.Graph()
        copies = {node: small.placeholder(f"x{numbers[node]}") for node in parents}
        root, theta = nn.Module(), {}
        for node in sorted((n for n, what in found.items() if what != "parent"), key=self.position.get):
            if found[node] == "tensor":
                copies[node] = small.get_attr(self._attach(root, theta, node.target))
            else:
                copies[node] = small.node_copy(node, lambda a: copies[a] if a in copies else self._size(a, copies, small))
        small.output(copies[z])
        small.lint()
        gm = fx.GraphModule(root, small)
        gm.train(self.module.training)
        random = any(kind_of(n) in RANDOM and _draws(n) for n, what in found.items() if what == "inner")
        stage = Stage(index, gm, theta, penalty, parents=tuple(numbers[n] for n in parents), label=label, random=random, pieces=mark_pieces(gm))
        calls = [kind_of(n) for n in sorted(found, key=self.position.get) if found[n] == "inner"]
        stage.operator = ", ".join(k for k in calls if k and k not in VIEWS and k != "sym_size") or "identity"
        return self._closed_form(stage, [n for n, what in found.items() if what == "inner"], z, parents)

    def _is_batch_size(self, node):
        """The number of samples: the first axis of the data and of nearly every parent."""
        return kind_of(node) == "sym_size" and node.args[1] == 0 and node.args[0] is self.data

    def _counts_samples(self, node):
        return node.meta["val"].dim() > 0 and str(node.meta["val"].shape[0]) == str(self.data.meta["val"].shape[0])

    def _size(self, node, copies, small):
        if not self._is_batch_size(node):
            raise KeyError(node)
        parent = next(copies[n] for n in copies if copies[n].op == "placeholder" and self._counts_samples(n))
        copies[node] = small.call_function(torch.ops.aten.sym_size.int, (parent, 0))
        return copies[node]

    def _attach(self, root, theta, target):
        """The module's own tensor under a flat name in `root`; parameters are entered in theta."""
        value, name = self._tensor(target)
        inside = (name or target).replace(".", "_")
        if not hasattr(root, inside):
            if isinstance(value, nn.Parameter):
                root.register_parameter(inside, value)
            else:
                root.register_buffer(inside, value if name else finite_mask(value))
        if isinstance(value, nn.Parameter):
            theta[name] = inside
        return inside

    def _tensor(self, target):
        owner = self.graph.owning_module
        for part in target.split("."):
            owner = getattr(owner, part)
        name = next((name for name, t in self.tensors.items() if t is owner), None)
        return owner, name

    def _closed_form(self, stage, inner, z, parents):
        """One linear layer and nothing else is an nn.Linear, for which steps are known in closed form."""
        if len(inner) != 1 or kind_of(z) != "linear" or len(parents) != 1 or z.args[0] is not parents[0] or len(stage.theta) != len(z.args) - 1:
            return stage
        weight = self._tensor(z.args[1].target)
        bias = self._tensor(z.args[2].target) if len(z.args) > 2 else (None, None)
        if not isinstance(weight[0], nn.Parameter):
            return stage
        stage.module = nn.utils.skip_init(nn.Linear, weight[0].shape[1], weight[0].shape[0], bias=bias[0] is not None, device="meta")
        stage.module.weight, stage.module.bias = weight[0], bias[0]
        stage.theta = {weight[1]: "weight", **({bias[1]: "bias"} if bias[0] is not None else {})}
        stage.operator = "Linear"
        return stage

    def _effects(self, stages):
        """Calls whose only work is on a buffer (counters of batches) go with the stage that uses buffers of the same submodule."""
        for node in self.graph.nodes:
            if node.op != "call_function" or node.users or node in self.moving or not node.args or getattr(node.args[0], "op", "") != "get_attr":
                continue
            prefix = node.args[0].target.rpartition(".")[0].replace(".", "_")
            for stage in stages:
                if isinstance(stage.module, fx.GraphModule) and any(name.startswith(prefix + "_") for name, _ in stage.module.named_buffers()):
                    value, name = self._tensor(node.args[0].target)
                    inside = (name or node.args[0].target).replace(".", "_")
                    stage.module.register_buffer(inside, value)
                    with stage.module.graph.inserting_before(stage.module.graph.output_node()):
                        stage.module.graph.call_function(node.target, (stage.module.graph.get_attr(inside), *node.args[1:]))
                    stage.module.recompile()
                    break


def _draws(node):
    """Whether the call draws random numbers: dropout with p > 0 in training mode."""
    kind = kind_of(node)
    if kind == "scaled_dot_product_attention":
        return len(node.args) > 4 and node.args[4] > 0
    if "dropout" in kind:
        return len(node.args) > 1 and node.args[1] > 0 and (len(node.args) < 3 or bool(node.args[2]))
    return True
