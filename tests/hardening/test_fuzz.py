"""A short run of the fuzzer; the long one is `python tests/hardening/fuzz.py --calls 10000`."""

import inspect
import random
from typing import Any

import pytest
import torch
from calls import calls, found, untried
from fuzz import argument, fuzz, judged, methods
from oracles import Wrong, prove

import paralift as pl
from paralift.arguments import _kinds


def test_random_calls_succeed_or_are_refused_in_a_sentence():
    verdicts, _, defects = fuzz(400, 7)
    assert not defects, "\n".join(f"--seed 7 --at {k}: {text}: {words} ({kind}, {place})" for (_, kind, place), found_ in defects.items() for k, text, words in found_)
    assert verdicts["success"] > 100 and verdicts["refused"] > 50


def test_the_fuzzer_reaches_the_whole_public_api():
    public = set(found())
    assert len(public) > 180 and public <= set(calls()) | untried(), sorted(public - set(calls()) - untried())


def test_every_argument_of_a_method_is_known():
    """A new public method needs values for its arguments in `argument`, or a place among those that only the library calls."""
    table = calls()
    for name, kind in found().items():
        if inspect.isclass(kind) and name not in untried():
            good = dict(table[name][0])
            thing = kind(*good.pop("*", ()), **good)
            for method, function in methods(thing).items():
                needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
                try:
                    [argument(p, thing, random.Random(0)) for p in needed]
                except KeyError as lost:
                    pytest.fail(f"{name}.{method} has an argument {lost} that fuzz.py knows no value for")


def test_annotations_of_all_public_arguments_are_found():
    """Names in annotations that lead nowhere would say nothing: every argument is of a kind, or its annotation is Any or a union, or it has none."""
    silent = {}
    for name, thing in found().items():
        function = inspect.unwrap(thing.__init__ if inspect.isclass(thing) else thing)
        if not inspect.isfunction(function):
            continue
        plain, _, table = _kinds(function)
        for parameter, (kind, _) in table.items():
            annotation = function.__annotations__.get(parameter, Any)
            if kind is None and annotation not in (Any, "Any", object) and "|" not in str(annotation) and "Union" not in str(annotation):
                silent.setdefault(f"{annotation}", []).append(f"{name}.{parameter}")
    assert not silent, silent


class Steep(pl.L1Norm):
    """Three wrongs: a prox that overshoots, a value that is NaN at 0, and memory that matters."""

    def _value(self, x):
        return super()._value(x) if x.is_contiguous() else super()._value(x) + 1

    def _prox(self, x, sigma):
        return super()._prox(x, 3 * sigma)

    def _gradient(self, x):
        return (x - x) / (x - x)


class Turned(pl.MatrixOperator):
    def _adjoint(self, y):
        return -super()._adjoint(y)


X = torch.linspace(-2.0, 3.0, 20, dtype=torch.float64).view(4, 5)


@pytest.mark.parametrize("thing,method,given,text", [
    (Steep(), "prox", (X, 0.5), "no minimiser"), (Steep(), "gradient", (X,), "NaN from finite"), (Steep(), "__call__", (X.T.contiguous().T,), "other memory"),
    (Turned(X), "__call__", (X[0],), "A\\* y")])
def test_the_oracles_refute(thing, method, given, text):
    with pytest.raises(Wrong, match=text):
        prove(thing, method, given, {}, getattr(thing, method)(*given))


@pytest.mark.parametrize("call,verdict",
                         [(lambda: {}["a"], "defect"), (lambda: pl.metrics._square(3), "defect"), (lambda: pl.Huber(-1.0), "refused"), (lambda: pl.Huber(deltas=1.0), "signature"),
                                          (lambda: pl.L1Norm().prox(X, "a"), "refused"), (lambda: pl.operators.indicators.project_simplex(X, None), "defect")])
def test_only_our_own_raise_is_a_refusal(call, verdict):
    with pytest.raises(Exception) as error:
        call()
    assert judged(error.value)[0] == verdict
