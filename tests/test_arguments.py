"""Kinds of arguments come from annotations, and what torch refuses is told in a sentence."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch

import paralift as pl
from paralift import arguments
from paralift.arguments import ArgumentError, Kind, check, checked, kind_of, refuse

T = torch.ones(2)
Even = Annotated[int, Kind("an even integer", lambda v: isinstance(v, int) and v % 2 == 0)]
CASES = [                      # annotation, what is of its kind, what is not, the words
    (bool, (True, np.True_), (1, None, "a"), "True or False"),
    (int, (3, -1), (True, 1.0, T, None), "an integer"),
    (float, (3, 0.5, np.float32(1), torch.tensor(2.0)), (math.inf, math.nan, True, 1j, "1", T, torch.tensor(1j), torch.tensor(True)), "a finite real number"),
    (torch.Tensor, (T,), (3.0, [1.0], np.ones(2), torch.empty(2, device="meta")), "a tensor that holds data"),
    (torch.dtype, (torch.float32, torch.int8), ("float32", float), "a torch.dtype"),
    (torch.nn.Module, (torch.nn.ReLU(),), (torch.nn.ReLU, torch.relu), "a torch.nn.Module"),
    (Callable[[int], int], (abs, torch.nn.ReLU()), (3, None), "a function or a module"),
    (str, ("a",), (3, None), "a str"),
    (Literal["a", "b", "c"], ("a", "c"), ("d", 3, T, ["a"]), "'a', 'b' or 'c'"),
    (Sequence[int], ([1, 2], (), range(3), (np.int64(3),)), (3, [1.0], [True], "ab", np.ones(2)), "a sequence of integers"),
    (Sequence[float], ([1, 0.5], np.ones(2), T), (3.0, ["a"], [math.nan], torch.ones(2, 2)), "a sequence of finite numbers"),
    (Sequence[pl.Functional], ([pl.L1Norm()], ()), ([3], pl.L1Norm()), "a sequence of Functionals"),
    (tuple[float, float], ((0, 1), [0.0, 1.0]), ((1,), (1, 2, 3), (1, "a")), "2 finite numbers"),
    (pl.Functional, (pl.L1Norm(), 2 * pl.ReLU()), (pl.L1Norm, 3), r"a Functional, such as L1Norm\(\)"),
    (pl.Operator, (pl.MatrixOperator(torch.ones(1, 1)),), (T,), "an Operator"),
    (dict[str, int], ({}, {"a": 1}), ([],), "a dict"),
    (int | None, (None, 3), (1.0,), "an integer, or None"),
    (Even | None, (None, 2), (3, "a"), "an even integer, or None"),
    (arguments.Extended, (math.inf, -1), (math.nan, 1j), "a real number, or inf"),
    (arguments.Count, (1, 7), (0, -1, 1.0, True), "an integer >= 1"),
    (arguments.Seed, (0, 2**32 - 1), (-1, 2**32, 0.0), "an integer from 0 to 4294967295"),
    (arguments.Array, (T, [1, 2], np.ones(3), 3.0), ("a", [1, "a"], torch.empty(2, device="meta")), "numbers that torch.as_tensor takes"),
    (arguments.Device, ("cpu", torch.device("cpu")), ("meta", "abc", 0), "a torch device"),
    (arguments.FilePath, ("a", pl.data.__spec__ and __import__("pathlib").Path("a")), ("", "a\0", 3), "a path"),
]


@pytest.mark.parametrize("annotation,good,bad,words", CASES, ids=[words[:30] for *_, words in CASES])
def test_kinds_of_annotations(annotation, good, bad, words):
    for value in good:
        check("f", "a", annotation, value)
    for value in bad:
        with pytest.raises(ArgumentError, match=f"^f got a=.*; it needs .*{words}"):
            check("f", "a", annotation, value)


@pytest.mark.parametrize("annotation", [Any, object, int | str, float | torch.Tensor, "a name", inspect.Parameter.empty])
def test_other_annotations_say_nothing(annotation):
    assert kind_of(annotation) is None


def test_arguments_of_functions():
    """By position, by name, *arguments and keyword-only; a default passes as it is, also where it is of another kind."""
    @checked
    def f(a: Even, *rest: arguments.Count, b: str = "x", c: int = None, d=3):  # noqa: RUF013
        return a, rest, b, c, d

    assert f(2, 1, 5, b="y", d=None) == (2, (1, 5), "y", None, None)
    for given, named, name in (((3,), {}, "a"), ((2, 0), {}, "rest"), ((2,), {"b": 3}, "b"), ((2,), {"c": "a"}, "c"), ((), {"a": 1}, "a")):
        with pytest.raises(ArgumentError, match=f"f got {name}="):
            f(*given, **named)
    with pytest.raises(TypeError, match="missing 1 required"):
        f()


def test_classes_named_for_the_type_checker_alone_are_found():
    """plotting.py imports Result and torch under TYPE_CHECKING only."""
    with pytest.raises(ArgumentError, match="it needs a Result"):
        pl.plotting.plot_history(3)


def test_constructors_of_users_are_their_own():
    class Mine(pl.L1Norm):
        def __init__(self, weight: int):
            super().__init__()
            self.weight = weight

    assert Mine("a").weight == "a"


def test_every_alias_is_used():
    import ast
    from pathlib import Path

    named = {n.id for file in Path(pl.__file__).parent.rglob("*.py") for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    aliases = {name for name, value in vars(arguments).items() if hasattr(value, "__metadata__")}
    assert len(aliases) > 10 and aliases <= named, aliases - named


def test_what_torch_refuses():
    def fail(error):
        try:
            raise error
        except Exception as e:
            refuse(e, pl.MatrixOperator(torch.ones(2, 3)), T)

    with pytest.raises(ArgumentError, match=r"MatrixOperator.* of trailing axes \(3,\).* cannot compute with a tensor of shape \(2,\), torch.float32: no such kernel\.$") as told:
        fail(RuntimeError("no such kernel.\nmore lines"))
    assert isinstance(told.value.__cause__, RuntimeError) and isinstance(told.value, (TypeError, ValueError))
    for other in (KeyError("a"), NotImplementedError("X defines no _call(x)"), torch.OutOfMemoryError("much")):
        with pytest.raises(type(other)):
            fail(other)
