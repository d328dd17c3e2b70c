"""A short run of the fuzzer; the long one is `python tests/hardening/fuzz.py --calls 10000`."""

import inspect

import pytest
import torch
from calls import calls, found, untried
from fuzz import fuzz, judged
from oracles import Wrong, prove

import paralift as pl
from paralift.arguments import NAMES, kind_of


def test_random_calls_succeed_or_are_refused_in_a_sentence():
    verdicts, _, defects = fuzz(400, 7)
    assert not defects, "\n".join(f"--seed 7 --at {k}: {text}: {words} ({kind}, {place})" for (_, kind, place), found_ in defects.items() for k, text, words in found_)
    assert verdicts["success"] > 100 and verdicts["refused"] > 50


def test_the_fuzzer_reaches_the_whole_public_api():
    public = set(found())
    assert len(public) > 180 and public <= set(calls()) | untried(), sorted(public - set(calls()) - untried())


def test_every_public_argument_has_a_kind():
    """A name means one thing wherever it appears: paralift/arguments.py says what."""
    lost = {}
    for name, thing in found().items():
        if name in untried():
            continue
        places = tuple(c.__name__ for c in thing.__mro__) if inspect.isclass(thing) else (name,)
        for parameter in inspect.signature(thing).parameters.values():
            if parameter.name not in NAMES and not any(f"{place}.{parameter.name}" in NAMES for place in places):
                lost.setdefault(parameter.name, []).append(name)
            kind_of(places, parameter.name)
    assert not lost, f"add these names to NAMES: {lost}"


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
