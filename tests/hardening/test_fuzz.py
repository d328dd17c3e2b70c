"""A short run of the fuzzer; the long one is `python tests/hardening/fuzz.py --calls 10000`."""

import inspect

from calls import calls, found, untried
from fuzz import fuzz

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
