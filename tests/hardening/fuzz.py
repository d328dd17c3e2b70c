"""Seeded random calls over the whole public API: `python tests/hardening/fuzz.py --calls 10000 --seed 0 [--only NAME] [--at K]`.

Every call must end in a success that its oracle confirms (oracles.py), its arguments unchanged, or in an exception that a `raise` of this package makes, in a sentence.
Anything else is a defect: an error from elsewhere, a hang, a NaN.
"""

import argparse
import ast
import collections
import contextlib
import functools
import inspect
import os
import random
import re
import signal
import sys
import traceback
import warnings
from math import inf, nan
from pathlib import Path

import numpy as np
import torch
from calls import FOLDER, UNTRIED, calls, found, randn, untried
from oracles import SHAPES, Wrong, has_nan, prove, solvable, tame, tensors, use

import paralift as pl
from paralift.arguments import shown

PACKAGE = str(Path(pl.__file__).parent)
SECONDS = 20
DUNDERS = ("__call__", "__add__", "__sub__", "__neg__", "__mul__", "__rmul__", "__matmul__", "__getitem__", "__or__", "__and__")
CONTRACTS = {pl.Problem: set(vars(pl.Problem)), pl.Solver: set(dir(pl.Solver)) - {"solve"}, pl.Loss: {"value", "gradient", "value_and_gradient"},
             pl.solvers.StepRule: {"start"},
             torch.nn.Module: set(dir(torch.nn.Module)) | {"__getitem__", "__add__", "__mul__", "stages", "example", "analysis", "synthesis", "step_size", "channels", "image",
                                                           "norm_squared"},
             pl.operators.geometry.Geometry: {"rows", "ends", "covering"}, pl.Tolerance: {"met", "needs"}, pl.distributed.schedules.Schedule: {"parts"},
             pl.problems.lifted.LiftedProblem: set(vars(pl.problems.stagewise.Stagewise)) | {"sweep_back", "input_prox", "evaluate_stages", "loss_and_residual"},}
# what solvers ask of a problem beyond the contract, what lifted problems tell each other, and memory without content
INSIDE = set("proximity probe image resolvent start_theta explicit_gradient implicit_step factors expand table_obstacle table_numbers block_value penalty_residuals mean_loss "
             "sample_lipschitz "
             "mean_lipschitz buffers empty set_buffers majorised_stage majoriser_from least_samples regularisation loss_at own_rows restrict forward settle "
             "transform pull_linear extrapolate curvature excess can_step distance bregman_step ends rows_of half multiplied normal compact covering implicit_energy "
             "implicit_point arrive bound lowest minimisers feasible_duals weight pair finish check_data mean_values metrics step predict".split())


class Hang(BaseException):
    pass


def on_time(call, *arguments, **named):
    def late(*_):
        raise Hang(f"no answer in {SECONDS} s of the processor's time")

    signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        return call(*arguments, **named)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


# ---- exceptions
@functools.cache
def raises(file):
    """{line: names of what a raise statement there raises} of a file of the package; "" for a variable."""
    lines = collections.defaultdict(set)
    for node in ast.walk(ast.parse(Path(file).read_text())):
        if isinstance(node, ast.Raise) and node.exc is not None:
            made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            for line in range(node.lineno, node.end_lineno + 1):
                lines[line].add(made.id if isinstance(made, ast.Name) and made.id[0].isupper() else "")
    return lines


def judged(error):
    """("refused" | "signature", type) or ("defect", (type, place, text))."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    kind, text = type(error).__name__, str(error)
    ours = [f for f in frames if f.filename.startswith(PACKAGE)]
    if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)) or isinstance(error, StopIteration):
        return "refused", kind
    if isinstance(error, TypeError) and re.search(r"argument|unsupported operand|not subscriptable|not callable", text) and (
            not ours or frames[-1].filename.endswith("inspect.py") or re.search(r"(unexpected keyword|missing|takes|multiple values for|got some positional).*argument", text)):
        return "signature", kind
    if ours and frames[-1] is ours[-1]:
        names = raises(ours[-1].filename).get(ours[-1].lineno, ())
        if (kind in names or "" in names) and len(text.split()) >= 6 and not isinstance(error, Hang):
            return "refused", kind
    place = f"{ours[-1].filename[len(PACKAGE) + 1:]}:{ours[-1].lineno}" if ours else "?"
    return "defect", (kind, place, text.splitlines()[0][:140] if text else "")


# ---- values
def spoiled(value, rng):
    """Another value in the place of a good one: of another kind, shape, dtype, memory, sign or size."""
    others = [None, "text", "", -1, -1.5, 0, 0.0, nan, inf, -inf, 1e300, 1e-300, True, [], (), {}, [1, "a"], object(), id, 1j, torch.tensor(nan), torch.empty(0), torch.zeros(()),
              torch.zeros(3, 0), torch.arange(3), torch.tensor([True]), torch.ones(2, dtype=torch.complex64), torch.empty(4, device="meta"), np.ones(3), np.float32(0.5),
              np.int64(2),
              pl.Space(3), pl.L1Norm(), pl.L1Norm, pl.IdentityOperator(pl.Space(3)), torch.float64, 2, 0.5, 7, torch.ones(4, 6), torch.ones(5, dtype=torch.float64)]
    own = []
    if torch.is_tensor(value) and not value.is_meta and value.layout is torch.strided:
        with torch.no_grad():
            own = [value.real.to(torch.int64), value.to(torch.bool), value.to(torch.complex64), value.real.to(torch.float16), value.real.float(), value.unsqueeze(0),
                   value.flatten(),
                   value.to(torch.complex128 if value.is_complex() else torch.float64), value.sum(), value.to("meta"), value.tolist(), value.detach().cpu().numpy(), -1 * value,
                   0 * value,
                   holed(value, nan), holed(value, inf), holed(value, -1), 1e30 * value]
            own += [value[:0], value[..., :-1]] if value.dim() else []
        own += layouts(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        own = [-value, value + 1, value + 0.5, str(value), [value], torch.tensor(value), np.float32(value), np.int64(value if abs(value) < 1e9 else 3), (value, value), 0, nan, inf]
    elif isinstance(value, (tuple, list)) and value:
        own = [value[:-1], [*value, value[0]], list(value), (), [spoiled(value[0], rng), *value[1:]], value[0], np.asarray(value) if isinstance(value[0], (int, float)) else None]
    elif isinstance(value, str):
        own = [value.upper(), value + "x", value.encode()]
    return rng.choice(own if own and rng.random() < 0.7 else others)


def holed(value, hole):
    if not (value.is_floating_point() or value.is_complex()) or not value.numel():
        return value
    value = value.clone(memory_format=torch.contiguous_format)
    value.view(-1)[0] = hole
    return value


def layouts(x):
    """The same values in other memory: strided, transposed, expanded over a batch, requiring a gradient."""
    wide = torch.stack([x, x], -1)[..., 0]
    made = [wide, x.detach().clone(), x.expand(2, *x.shape), x.unsqueeze(0)]
    if x.dim() > 1:
        made.append(x.transpose(0, -1).contiguous().transpose(0, -1))
    if x.is_floating_point() or x.is_complex():
        made.append(x.detach().clone().requires_grad_())
    return made


def element(space, rng, positive=False):
    """An element, good or not: dtype, batch, memory and values vary."""
    dtype = space.dtype if rng.random() < 0.7 else rng.choice([torch.float32, torch.float64, torch.complex64, torch.complex128])
    shape = (*rng.choice([(), (), (), (3,), (2, 1), (0,)]), *space.shape)
    x = torch.randint(0, 3, shape) if not (dtype.is_floating_point or dtype.is_complex) else randn(*shape, dtype=dtype, seed=rng.randrange(99))
    x = x.abs() + 0.1 if positive and not x.is_complex() else x
    turn = rng.random()
    return x if turn < 0.5 else rng.choice(layouts(x)) if turn < 0.7 else spoiled(x, rng)


def argument(name, thing, rng):
    """A value for the argument `name` of a method of `thing`; KeyError where none is known."""
    functional, operator = isinstance(thing, pl.Functional), isinstance(thing, pl.Operator)
    own = getattr(thing, "space", None) if functional else getattr(thing, "domain", None)
    if isinstance(thing, pl.Penalty):
        own = thing.potential.space
    if isinstance(thing, pl.Space):
        own = thing
    ndim = getattr(thing, "ndim", 1)
    space = own if isinstance(own, pl.Space) else pl.Space(SHAPES[ndim if isinstance(ndim, int) and ndim < 4 else 1], torch.float64)
    positive = isinstance(thing, (pl.KullbackLeibler, pl.NegativeEntropy, pl.EntropyKernel, pl.BurgKernel))
    here, step = lambda: element(space, rng, positive), lambda: rng.choice([0.3, 1.0, 0.3, 2, torch.tensor(0.5, dtype=torch.float64)])
    like = lambda: rng.choice([thing, 2 * thing]) if functional or operator else thing
    if isinstance(thing, pl.SampleGroups) and name in (own := {
            "chosen": lambda: torch.rand(thing.costs.shape) < 0.5, "mask": lambda: torch.rand(thing.shape) < 0.5, "energy": lambda: torch.rand(2, *thing.shape),
            "scores": lambda: torch.rand(thing.costs.shape), "density": lambda: torch.rand(thing.costs.shape), "budget": lambda: rng.choice([5, 12, 99])}):
        return own[name]()
    if isinstance(thing, pl.Problem) and name == "point":
        if isinstance(thing, pl.SamplingDesign) and thing.weight is None:
            thing.weight = 1.0                                   # as `design` would, which has a start only then
        return {k: spoiled(v, rng) if rng.random() < 0.2 else v + 0.1 for k, v in thing.start().items()}
    if isinstance(thing, pl.distributed.StageCosts) and name == "iterations":
        return rng.choice([{8: 0.1}, {4: 0.1, 8: 0.15}, {}, {0: 1.0}, {4: nan}])
    values = {**dict.fromkeys("x z v u g p q point dx subgrad new old data image r".split(), here), **dict.fromkeys("sigma tau t s".split(), step),
              "y": lambda: element(thing.range, rng) if operator else here(), "shift": lambda: rng.choice([0.5, 0, here()]),
              "a": lambda: rng.choice([2.0, 0.5, 0, 1, -1.0, 1j, inf, nan]),
              "other": like, "op": lambda: rng.choice([pl.IdentityOperator(space), pl.MatrixOperator(randn(space.shape[-1], 3)) if space.ndim == 1 else pl.Gradient(space)]),
              "space": lambda: rng.choice([space, space.shape, (3, 4), 5]),
              "index": lambda: rng.choice([0, slice(0, 2), torch.tensor([0, 1]), [0, 1], slice(None, None, 2), 1, -1, 99]),
              "iterations": lambda: rng.choice([5, 20]), "tolerance": lambda: rng.choice([1e-3, 0.0]), "seed": lambda: 1,
              "weights": lambda: element(thing.range, rng).abs() if operator else here(),
              "parts": here, "dtype": lambda: torch.float64, "batch": lambda: rng.choice([2, 0, 3]), "generator": lambda: None,
              "events": lambda: pl.Events(torch.arange(3), torch.arange(3)),
              "geometry": lambda: pl.CylindricalScanner(18, 9.0, 7), "S": lambda: rng.choice([0.1 * pl.L1Norm(), pl.ReLU(), pl.ZeroFunctional()]),
              "run": lambda: {"residual": 1e-4, "passes": 3.0},
              "result": lambda: pl.FISTA(3).solve(pl.Composite(pl.LeastSquares(randn(5, 4), randn(5)))), "path": lambda: str(FOLDER / "out.csv"), "rows": lambda: 8,
              "size": lambda: 1000,
              "workers": lambda: 2, "delta": lambda: 0.1, "alpha": lambda: 0.1, "weight": lambda: 0.5, "start": lambda: None, "rho": lambda: 3.0,
              "budget": lambda: rng.choice([None, 8]),
              "solver": lambda: pl.FISTA(3), "trials": lambda: 2, "inputs": lambda: torch.rand(3, 4), "batch_size": lambda: 2, "targets": lambda: torch.rand(3, 3),
              "filters": lambda: randn(3, 2, 2), "shape": lambda: (4,), "like": here, "rings": lambda: 2, "span": lambda: 1, "kind": lambda: "spread", "fixed": lambda: 0.0,
              "stages": lambda: 3,
              "forward": lambda: 1e-3, "backward": lambda: 2e-3, "parameter_bytes": lambda: 8, "boundary_bytes": lambda: 8, "groups": lambda: [range(0, 1)], "given": lambda: 2,
              "data_workers": lambda: 2, "layers": lambda: 2, "deterministic": lambda: True, "direction": lambda: {}, "problem": lambda: None, "dual": lambda: (),
              "blocks": lambda: None,
              "steps": lambda: {"x": 0.1}, "denoised": here}
    return values[name]()


# ---- one call
def methods(thing):
    """{name: function} of what users call on a thing."""
    shut = INSIDE | {name for kind, names in CONTRACTS.items() if isinstance(thing, kind) for name in names}
    own = [c for c in type(thing).__mro__ if c.__module__.startswith("paralift")]
    names = {n for c in own for n in vars(c) if (n[0] != "_" or n in DUNDERS) and n not in shut}
    plain = lambda member: inspect.isroutine(member) or isinstance(member, (classmethod, staticmethod))
    return {n: getattr(thing, n) for n in sorted(names) if plain(inspect.getattr_static(type(thing), n)) and callable(getattr(thing, n, None))}


def changed(arguments, rng):
    """Arguments of a call with one or two of them spoiled, misspelt, left out, added or exchanged; often none."""
    given, named = list(arguments.pop("*", ())), arguments
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        way, keys = rng.random(), list(named)
        if way < 0.75 and (keys or given):
            if keys and (not given or rng.random() < 0.7):
                key = rng.choice(keys)
                named[key] = spoiled(named[key], rng)
            else:
                place = rng.randrange(len(given))
                given[place] = spoiled(given[place], rng)
        elif way < 0.8 and keys:
            named[keys[0] + "s"] = named.pop(keys[0])
        elif way < 0.85 and keys:
            named.pop(rng.choice(keys))
        elif way < 0.9:
            given.append(spoiled(1.0, rng))
        elif len(keys) > 1:
            a, b = rng.sample(keys, 2)
            named[a], named[b] = named[b], named[a]
    return given, named


class Fuzzer:
    """Calls k = 0, 1, ... of a seed; each is a function of (seed, k) alone."""

    def __init__(self, seed, only=None):
        self.seed, self.public = seed, found()
        for file in Path(PACKAGE).rglob("*.py"):
            raises(str(file))                                    # as the modules are now
        self.table = calls()
        missing, gone = set(self.public) - set(self.table) - untried(), (set(self.table) | untried()) - set(self.public)
        if missing or gone - {"Stage", "Layout", "CheckFailed", "LiftedProblem"}:
            raise LookupError(f"calls.py has no good call of {sorted(missing)}, and calls {sorted(gone)}, which is not public.")
        self.names = sorted(n for n in self.table if n in self.public and (only is None or n == only))
        self.parameters = {n: list(inspect.signature(self.public[n]).parameters) for n in self.names}

    def plan(self, k):
        """(name of what is called, the call, thing, method, given, named)."""
        rng = random.Random(f"{self.seed}:{k}")
        name = rng.choice(self.names)
        made, good = self.public[name], dict(rng.choice(self.table[name]))
        if inspect.isclass(made) and rng.random() < 0.6:
            thing = made(*good.pop("*", ()), **good)
            ways = methods(thing)
            if ways:
                method = rng.choice(sorted(ways))
                signature = inspect.signature(ways[method])
                good = {p.name: argument(p.name, thing, rng) for p in signature.parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
                for p in signature.parameters.values():
                    if p.default is not p.empty and rng.random() < 0.25:
                        try:
                            good[p.name] = argument(p.name, thing, rng)
                        except KeyError:
                            good[p.name] = spoiled(p.default, rng)
                good["*"] = [argument(p.name, thing, rng) for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL for _ in range(2)]
                if isinstance(thing, pl.Solver) and method == "solve":
                    good["problem"] = solvable(thing)
                    good.update(rng.choice([{}, {}, {"record_every": 2}, {"progress": False}, {"callback": id}, {"workers": 1}, {"checkpoint_every": 1.0}, {"strict": True}]))
                if not good["*"]:
                    del good["*"]
                    if rng.random() < 0.5 and all(p.default is p.empty for n, p in signature.parameters.items() if n in good):
                        good = {"*": list(good.values())}
                given, named = changed(good, rng) if rng.random() < 0.5 else (list(good.pop("*", ())), good)
                return f"{name}.{method}", ways[method], thing, method, given, named
        for parameter in self.parameters[name]:
            if parameter not in good and "*" not in good and rng.random() < 0.12:
                good[parameter] = spoiled(rng.choice([1.0, 2, "text", None]), rng)
        given, named = changed(good, rng)
        return name, made, None, "", given, named

    def run(self, k):
        """(name, verdict, details)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.random.fork_rng(devices=[]):
                who, call, thing, method, given, named = self.plan(k)
                before = [(t, t._version) for t in tensors([*given, *named.values()])] if "activation_" not in who else []
                try:
                    return who, *self._judge(call, thing, method, given, named, before), f"{who}({', '.join([*map(shown, given), *(f'{n}={shown(v)}' for n, v in named.items())])})"
                finally:
                    sys.stdout.flush()

    def _judge(self, call, thing, method, given, named, before):
        rng = random.Random(0)
        try:
            result = on_time(call, *given, **named)
            if any(t._version != version for t, version in before):
                raise Wrong("an argument was changed in place")
            if thing is not None:
                on_time(prove, thing, method, given, named, result)
            elif has_nan(result) and tame([*given, *named.values()]) and "path" not in named:
                raise Wrong("NaN from finite arguments")
            else:
                on_time(use, result, rng)
            return "success", ""
        except Wrong as wrong:
            return "defect", ("Wrong", "oracle", str(wrong)[:140])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return judged(error)


@contextlib.contextmanager
def elsewhere():
    """The temporary folder is the working one: what a call writes under a spoiled name goes with it."""
    before = os.getcwd()
    os.chdir(FOLDER)
    try:
        yield
    finally:
        os.chdir(before)


def uncalled():
    """{class: names of its public methods that no random call reaches}."""
    shut = {}
    for name, kind in found().items():
        if inspect.isclass(kind) and name in calls():
            own = {n for c in kind.__mro__ if c.__module__.startswith("paralift") for n, v in vars(c).items() if n[0] != "_" and inspect.isroutine(inspect.unwrap(v))}
            never = own & (INSIDE | {n for k, names in CONTRACTS.items() if issubclass(kind, k) for n in names})
            shut.update({name: sorted(never)} if never else {})
    return shut


def fuzz(number, seed, only=None, first=0, show=False):
    """(counts of verdicts, counts of refusals by type, {defect: [calls]})."""
    fuzzer, verdicts, refusals, defects = Fuzzer(seed, only), collections.Counter(), collections.Counter(), collections.defaultdict(list)
    for k in range(first, first + number):
        with elsewhere():
            who, verdict, details, text = fuzzer.run(k)
        verdicts[verdict] += 1
        if verdict == "defect":
            defects[who, details[0], details[1]].append((k, text, details[2]))
            if show:
                print(f"{k}: {text[:200]}: {details}", file=sys.stderr, flush=True)
        elif verdict != "success":
            refusals[f"{details} ({verdict})"] += 1
        if show and k % 1000 == 999:
            print(f"{k + 1 - first} calls, {verdicts['defect']} defects", file=sys.stderr, flush=True)
    return verdicts, refusals, defects


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one class or function")
    parser.add_argument("--first", type=int, default=0, help="the number of the first call, to share the work")
    parser.add_argument("--uncalled", action="store_true", help="list what no call reaches, and why")
    parser.add_argument("--at", type=int, help="the call of this number alone, with its traceback")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.uncalled:
        print("\n".join([*(f"{why}: {names}" for why, names in UNTRIED.items()), *(f"{name}: {', '.join(never)}" for name, never in uncalled().items())]))
        sys.exit()
    if options.at is not None:
        who, call, thing, method, given, named = Fuzzer(options.seed, options.only).plan(options.at)
        print(who, [shown(v) for v in given], {n: shown(v) for n, v in named.items()})
        with elsewhere():
            value = call(*given, **named)
        print(value)
        prove(thing, method, given, named, value) if thing is not None else use(value, random.Random(0))
        sys.exit()
    verdicts, refusals, defects = fuzz(options.calls, options.seed, options.only, options.first, True)
    print(f"{sum(verdicts.values())} calls, seed {options.seed}: {verdicts['success']} successes, "
          f"{verdicts['refused']} refusals in our sentences, {verdicts['signature']} by the signature, "
          f"{verdicts['defect']} defects")
    print("  " + ", ".join(f"{n} {kind}" for kind, n in refusals.most_common()))
    for (who, kind, place), found_ in sorted(defects.items(), key=lambda item: -len(item[1])):
        k, text, words = found_[0]
        print(f"{len(found_):>5}  {who}  {kind}  {place}\n       --at {k}: {text[:300]}\n       {words}")
    sys.exit(bool(defects))
