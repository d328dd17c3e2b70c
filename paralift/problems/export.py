"""The graph of ATen calls of a torch module, by torch.export."""

import threading
import warnings

import torch
from torch import fx

from ..arguments import reason
from ..operators.module import forked
from .stages import lifting

__all__ = ["exported", "kind_of", "place_of", "is_value", "finite_mask", "VIEWS"]

VIEWS = {"view", "reshape", "_unsafe_view", "permute", "transpose", "t", "unsqueeze", "squeeze", "slice", "select", "expand", "flatten", "unflatten", "getitem", "chunk", "split",
         "split_with_sizes", "unbind", "contiguous", "movedim", "expand_as", "view_as", "tensor_split"}


_exporting = threading.Lock()      # torch.export serves one thread at a time


def exported(module, example):
    """The module's graph of ATen calls, free of in-place calls on values, with the module's own parameters and buffers."""
    if not torch.is_tensor(example):
        raise TypeError(f"example inputs of type {type(example).__name__} were given; lift needs one tensor with samples on its first axis: "
                        "wrap the module in one of a single input.")
    if len(example) < 2:
        raise ValueError(f"an example of {len(example)} samples was given; lift needs at least 2, so that the batch axis can be told from the others.")
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    try:
        with forked(example.device), torch.no_grad():
            output = module(example)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"{type(module).__name__} refused an input of shape {tuple(example.shape)}, dtype {example.dtype}: {_sentence(error)}") from error
    if not torch.is_tensor(output):
        what = f"{len(output)} values" if isinstance(output, (tuple, list)) else f"a {type(output).__name__}"
        raise ValueError(f"{type(module).__name__} returns {what}; lift needs a module that returns one tensor: wrap it in a module that picks it (for instance .logits).")
    try:
        with _exporting, warnings.catch_warnings(), lifting():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (example,), strict=False, dynamic_shapes=({0: torch.export.Dim.AUTO},))
            graph = program.module(check_guards=False).graph
    except Exception as error:
        raise ValueError(f"{type(module).__name__} cannot be exported as a graph: {_sentence(error)} Rewrite this part without control flow that depends on the data, "
                         "or give the stages by hand: paralift.networks.chain(...), or paralift.networks.Staged([...]).") from error
    finally:
        for name, b in module.named_buffers():
            b.copy_(buffers[name])
    _functional(graph)
    _any_layout(graph)
    _finite_masks(graph)
    return graph


def _sentence(error):
    """The first informative line of an export error, with the user's own line of code where the trace shows it."""
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/torch/" not in name and "/paralift/" not in name and not name.startswith("<"):
            place = f" (line {trace.tb_lineno} of {name.rsplit('/', 1)[-1]}, in {trace.tb_frame.f_code.co_name})"
        trace = trace.tb_next
    return f"{reason(error)}{place}."


def _functional(graph):
    """Replace in-place calls on values by their functional form; those on buffers (counters of batches) stay."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not hasattr(node.target, "overloadpacket"):
            continue
        name, value = node.target.overloadpacket.__name__, node.args[0] if node.args else None
        if name.endswith("_") and not name.endswith("__") and isinstance(value, fx.Node) and value.op != "get_attr":
            if kind_of(value) in VIEWS:
                raise ValueError(f"{place_of(node) or 'the network'} writes in place into a view ({name} after {kind_of(value)}), which a graph of values cannot follow; "
                                 "write it without in-place calls, for instance with torch.where or torch.cat.")
            packet = getattr(torch.ops.aten, name[:-1], None)
            if packet is not None and node.target._overloadname in packet.overloads():
                node.target = getattr(packet, node.target._overloadname)
                later = {user for user in value.users if user is not node and user > node}
                value.replace_all_uses_with(node, delete_user_cb=lambda user: user in later)


def _any_layout(graph):
    """torch.export leaves out copies that the example's strides do without; an unknown may come with others, from a file or another worker."""
    for node in list(graph.nodes):
        if kind_of(node) in ("view", "_unsafe_view"):
            node.target = torch.ops.aten.reshape.default
        elif kind_of(node) == "view_as_complex":
            with graph.inserting_before(node):
                dense = graph.call_function(torch.ops.aten.contiguous.default, (node.args[0],))
            dense.meta = dict(node.args[0].meta)
            node.args = (dense,)


MASKED, MASKING = -1e4, {"masked_fill", "masked_fill_", "where", "full", "full_like", "new_full", "scalar_tensor", "fill", "fill_", "mul"}


def _finite_masks(graph):
    """Masks of -inf or the lowest number before a softmax become -1e4: softmax is the same, and penalties stay finite."""
    before = set()
    for node in reversed(graph.nodes):
        if kind_of(node) in ("softmax", "_softmax") or any(user in before for user in node.users):
            before.add(node)
    for node in graph.nodes:
        if kind_of(node) in MASKING and node in before:
            node.args = tuple(MASKED if isinstance(a, float) and a < -1e30 else a for a in node.args)
            node.kwargs = {k: MASKED if isinstance(a, float) and a < -1e30 else a for k, a in node.kwargs.items()}


def finite_mask(value):
    """A constant tensor with -inf replaced likewise."""
    return value.clamp(min=MASKED) if value.is_floating_point() and bool((value < -1e30).any()) else value


def kind_of(node):
    """The ATen name of a call ("relu"), or ""."""
    if node.op != "call_function":
        return ""
    return node.target.overloadpacket.__name__ if hasattr(node.target, "overloadpacket") else getattr(node.target, "__name__", "")


def place_of(node):
    """The path of the submodule whose forward made the node."""
    paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return paths[-1].replace("L['self'].", "") if paths and not paths[-1].startswith("_empty") else ""


def is_value(node):
    """A floating tensor that depends on the data or on an unknown."""
    value = node.meta.get("val")
    return torch.is_tensor(value) and value.is_floating_point()
