"""Every public function and method says its types: as a user or an editor reads them, for `py.typed` is in the wheel. mypy (`make lint`) checks that they are right."""

import functools
import inspect
import types

import pytest

import paralift as pl

PLACES = (pl, pl.data, pl.distributed, pl.io, pl.metrics, pl.networks, pl.plotting, pl.testing)
FOUND = {f"{v.__module__}.{v.__qualname__}": v for place in PLACES for name, v in vars(place).items()
         if not name.startswith("_") and isinstance(v, (type, types.FunctionType)) and v.__module__.startswith("paralift.")}


def function_of(member):
    """The function behind a method, a property or a plain function; None for other attributes."""
    member = member.func if isinstance(member, functools.cached_property) else member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    return member if isinstance(member, types.FunctionType) else None


def lacks(function, method=False):
    """The parameters without a type, and "return"; a constructor returns nothing."""
    signature = inspect.signature(function)
    own = list(signature.parameters.values())[1 if method else 0:]
    missing = [p.name for p in own if p.annotation is p.empty]
    return missing + ["return"] * (signature.return_annotation is signature.empty and function.__name__ != "__init__")


def members(cls):
    """(name, [the functions of that name, from the class to its bases], whether it is static) of constructors, calls and public methods that PARALIFT defines."""
    own = [c for c in cls.__mro__ if c.__module__.startswith("paralift")]
    for name in dict.fromkeys(name for c in own for name in vars(c) if not name.startswith("_") or name in ("__init__", "__call__")):
        found = [(c, function_of(vars(c)[name])) for c in own if name in vars(c)]
        if found[0][1] is not None:
            yield name, [f for _, f in found if f is not None], isinstance(vars(found[0][0])[name], staticmethod)


@pytest.mark.parametrize("name", FOUND)
def test_public_signatures_are_annotated(name):
    """A method that overrides another, or a property an attribute, may leave its types to it; a constructor may not."""
    thing = FOUND[name]
    if not isinstance(thing, type):
        assert not lacks(thing), f"{name} needs types for {lacks(thing)}"
        return
    for member, functions, static in members(thing):
        gaps = [lacks(f, method=not static) for f in (functions[:1] if member == "__init__" else functions)]
        assert any(not gap for gap in gaps) or any(member in vars(c).get("__annotations__", ()) for c in thing.__mro__), f"{name}.{member} needs types for {gaps[0]}"


def test_the_check_sees_what_is_there():
    assert len(FOUND) > 150 and "paralift.solvers.fista.FISTA" in FOUND and "paralift.data.mnist" in FOUND

    def half(x: int, y):
        return x, y

    assert lacks(half) == ["y", "return"] and dict((n, f) for n, f, _ in members(pl.FISTA))["solve"]
