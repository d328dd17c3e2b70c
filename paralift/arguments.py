"""What arguments are. The kind of an argument stands in its annotation; `checked` refuses a value of another kind in a sentence, before any work.

Plain annotations say the usual: `bool`, `int`, `float` (finite), `str`, `Literal["a", "b"]`, `torch.Tensor` (one that holds data), a class (an instance of it), `Callable`,
`Sequence[int]`, `tuple[float, float]`, `X | None`. What is narrower is an alias with a `Kind`: those of several modules are here. `Any` and other unions say nothing: there the
callable looks itself. Kinds are looked at where objects are made and functions called, never in a product or a prox; ranges that belong to one class alone are that class's.
"""

import collections.abc
import functools
import inspect
import linecache
import math
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

__all__ = ["ArgumentError", "Kind", "check", "checked", "refuse", "shown"]


class ArgumentError(TypeError, ValueError):
    """An argument is not of the kind that its annotation asks for; caught as a TypeError and as a ValueError."""


class Kind(NamedTuple):
    """What an argument needs to be, in words (of several: `many`), and whether a value is."""

    words: str
    holds: Callable[[Any], bool]
    many: str = ""

    def __repr__(self):
        return self.words


def shown(value: Any) -> str:
    """A value in an error's sentence: tensors by shape and dtype, others by their text, cut to 80 characters."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}" + (f", on {value.device}" if value.device.type != "cpu" else "")
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---- what holds of a value
def is_tensor(v: Any) -> bool:
    return isinstance(v, torch.Tensor) and v.device.type != "meta"


def is_real(v: Any) -> bool:
    if isinstance(v, torch.Tensor):
        return is_tensor(v) and v.dim() == 0 and not v.is_complex() and v.dtype != torch.bool and bool(v == v)
    return isinstance(v, Real) and not isinstance(v, (bool, np.bool_)) and v == v


def is_integer(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool)


def is_finite(v: Any) -> bool:
    return is_real(v) and abs(v) < math.inf


def are(holds: Callable[[Any], bool], v: Any) -> bool:
    """Whether v is a sequence of such items: a list, tuple or range, an array or a tensor of one axis."""
    if isinstance(v, (list, tuple, range)):
        return all(map(holds, v))
    return (isinstance(v, np.ndarray) and v.ndim == 1 or is_tensor(v) and v.dim() == 1) and all(map(holds, v.tolist()))


def are_integers(v: Any) -> bool:
    return isinstance(v, (list, tuple, range)) and all(isinstance(i, Integral) and not isinstance(i, bool) for i in v)


def is_array(v: Any) -> bool:
    if isinstance(v, torch.Tensor):
        return is_tensor(v)
    if not isinstance(v, (np.ndarray, list, tuple, Real, complex, np.number)):
        return False
    try:
        torch.as_tensor(v)
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def is_device(v: Any) -> bool:
    try:
        return isinstance(v, (str, torch.device)) and torch.device(v).type != "meta"
    except RuntimeError:
        return False


# ---- kinds of several modules
Extended = Annotated[float, Kind("a real number, or inf", is_real)]
Positive = Annotated[float, Kind("a finite number > 0", lambda v: is_real(v) and 0 < v < math.inf)]
Count = Annotated[int, Kind("an integer >= 1", lambda v: is_integer(v) and v >= 1)]
Seed = Annotated[int, Kind("an integer from 0 to 4294967295", lambda v: is_integer(v) and 0 <= v < 2**32)]
Integers = Annotated[int | Sequence[int], Kind("an integer or a sequence of integers", lambda v: is_integer(v) or are_integers(v))]
Shape = Annotated[Sequence[int], Kind("lengths of axes, integers >= 0", lambda v: are_integers(v) and all(n >= 0 for n in v))]
Numbers = Annotated[float | Sequence[float] | torch.Tensor, Kind("a finite number, or one for each axis", lambda v: is_real(v) or are(is_real, v))]
Array = Annotated[torch.Tensor, Kind("a tensor, or numbers that torch.as_tensor takes", is_array)]
Quantity = Annotated[float | torch.Tensor, Kind("a number or a tensor", lambda v: is_real(v) or is_tensor(v))]
InexactDtype = Annotated[torch.dtype, Kind("a floating-point or complex torch.dtype", lambda v: isinstance(v, torch.dtype) and (v.is_floating_point or v.is_complex))]
Device = Annotated[torch.device | str, Kind("a torch device that holds data, such as 'cpu'", is_device)]
FilePath = Annotated[str | os.PathLike, Kind("a path, a str or os.PathLike", lambda v: isinstance(v, os.PathLike) or isinstance(v, str) and v != "" and "\0" not in v)]
Names = Annotated[str | Collection[str], Kind("a name, or a sequence of names",
                                              lambda v: isinstance(v, str) or isinstance(v, (list, tuple, set)) and all(isinstance(n, str) for n in v))]

PLAIN = {
    bool: Kind("True or False", lambda v: isinstance(v, (bool, np.bool_))),
    int: Kind("an integer", is_integer, "integers"),
    float: Kind("a finite real number", is_finite, "finite numbers"),
    torch.Tensor: Kind("a tensor that holds data (torch.as_tensor(...) makes one)", is_tensor, "tensors"),
    torch.nn.Module: Kind("a torch.nn.Module", lambda v: isinstance(v, torch.nn.Module), "torch.nn.Modules"),
    torch.dtype: Kind("a torch.dtype", lambda v: isinstance(v, torch.dtype)),
    Callable: Kind("a function or a module", callable, "functions or modules"),
    Sequence[int]: Kind("a sequence of integers", are_integers),
}


# ---- from annotations to kinds
@functools.cache
def kind_of(annotation: Any) -> Kind | None:
    """The kind that an annotation names; None where it says nothing."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return next((m for m in inside[1:] if isinstance(m, Kind)), None) or kind_of(inside[0])
    if annotation in PLAIN or origin in PLAIN:
        return PLAIN.get(annotation) or PLAIN[origin]
    if origin in (Union, types.UnionType):
        one = kind_of(inside[0]) if len(inside) == 2 and inside[1] is type(None) else None
        return one and Kind(f"{one.words}, or None", lambda v: v is None or one.holds(v))
    if origin is Literal:
        names = [repr(name) for name in inside]
        return Kind(" or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names), lambda v: isinstance(v, str) and v in inside)
    if origin in (tuple, collections.abc.Sequence):
        item, number = kind_of(inside[0]) if inside else None, len(inside) if origin is tuple and inside[-1] is not ... else None
        holds = (lambda v: True) if item is None else item.holds
        words = f"{'a sequence of' if number is None else number} {item.many if item and item.many else 'items'}"
        return Kind(words, lambda v: are(holds, v) and number in (None, len(v)))
    made = origin or annotation
    if not isinstance(made, type) or made in (Any, object, type, inspect.Parameter.empty):
        return None
    such = vars(made).get("_such_as")
    return Kind(f"{'an' if made.__name__[0] in 'AEIO' else 'a'} {made.__name__}{f', such as {such}' if such else ''}", lambda v: isinstance(v, made), f"{made.__name__}s")


def _annotations(made):
    """{name: annotation}; classes that are named for the type checker alone are looked up among ours."""
    found = {}
    while True:
        try:
            return get_type_hints(made, {**found, **inspect.unwrap(made).__globals__}, include_extras=True)
        except NameError as missing:
            ours = (vars(module) for name, module in list(sys.modules.items()) if name.startswith("paralift"))
            found[missing.name] = next((names[missing.name] for names in ours if missing.name in names), Any)


def _kinds(made):
    """[(name, kind, default), ...] of what is given by position, the name and kind of *arguments or None, and {name: (kind, default)}."""
    hints, parameters = _annotations(made), inspect.signature(made).parameters.values()
    found = [(p, kind_of(hints.get(p.name, Any))) for p in parameters]
    plain = [(p.name, kind, p.default) for p, kind in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next(((p.name, kind) for p, kind in found if p.kind is p.VAR_POSITIONAL), None)
    return plain, rest, {p.name: (kind, p.default) for p, kind in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


# ---- looking at values
def check(who: str, name: str, annotation: Any, value: Any) -> None:
    """Raise ArgumentError where the argument `name` of `who` is not of the kind that the annotation says."""
    _look(who, name, kind_of(annotation), value)


def _look(who, name, kind, value):
    if kind is not None and not kind.holds(value):
        raise ArgumentError(f"{who} got {name}={shown(value)}; it needs {kind.words}.")


Made = TypeVar("Made", bound=Callable)


def checked(made: Made) -> Made:
    """A class whose constructor, or a function or method that, looks at the kinds of its arguments first; the default of an argument passes as it is."""
    if not isinstance(made, type):
        return _checked(made, inside=False)
    first = next(c for c in made.__mro__ if "__init__" in vars(c))
    if made.__module__.startswith("paralift.") and made.__name__[0] != "_" and (first is made or first.__name__[0] == "_"):           # what users derive is theirs
        made.__init__ = _checked(made.__init__, inside=True)  # type: ignore[misc]
    return made


def _checked(made, inside):
    kinds = None                                                           # found at the first call: annotations may name classes that are not there yet

    @functools.wraps(made)
    def call(*given, **named):
        nonlocal kinds
        who = type(given[0]).__name__ if inside else made.__qualname__
        if kinds is None:
            kinds = _kinds(made)
        plain, rest, table = kinds
        for (name, kind, default), value in zip(plain, given):
            if kind is not None and value is not default and not kind.holds(value):
                _look(who, name, kind, value)
        if rest is not None:
            for value in given[len(plain):]:
                _look(who, *rest, value)
        for name, value in named.items():
            kind, default = table.get(name, (None, None))
            if kind is not None and value is not default and not kind.holds(value):
                _look(who, name, kind, value)
        try:
            return made(*given, **named)
        except (RuntimeError, IndexError) as error:
            refuse(error, who, *given[inside:], *named.values())

    return call


# ---- what torch refuses
def refuse(error: BaseException, who: Any, *values: Any) -> NoReturn:
    """Raise what torch's `error` means for who(*values), `who` a name or an object: an ArgumentError that says both, or the error itself where it is ours, no refusal of torch's,
    or memory ran out."""
    abstract = type(error) is NotImplementedError and not re.search("not implemented for|not supported|Could not run|meta tensor", str(error))
    if not isinstance(error, (IndexError, RuntimeError)) or abstract or isinstance(error, torch.OutOfMemoryError) or _raised_here(error):
        raise error
    space = getattr(who, "domain", None) or getattr(who, "space", None)
    name = who if isinstance(who, str) else repr(who) if space is None else f"{who!r}, for elements of trailing axes {space.shape} and {space.dtype},"
    raise ArgumentError(f"{name} cannot compute with {', '.join(map(shown, values))}: {reason(error)}.") from error


def reason(error: BaseException) -> str:
    """The first line of an error's text, without its full stop."""
    return next((" ".join(line.split()).rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _raised_here(error):
    """Whether a `raise` of this package made the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_globals.get("__name__", "").startswith("paralift."):
        return False
    return linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).lstrip().startswith("raise ")
