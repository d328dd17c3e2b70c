"""What the names of arguments mean. A name is of one kind wherever it appears; `checked` refuses a value of another kind in a sentence, before any work.

Kinds are looked at where objects are made and functions called, never in a product or a prox. Ranges that belong to one class alone are that class's.
"""

import functools
import inspect
import linecache
import math
import os
import re
from numbers import Integral, Real
from typing import Any, Callable, NamedTuple, NoReturn

import numpy as np
import torch

__all__ = ["ArgumentError", "checked", "shown"]


class ArgumentError(TypeError, ValueError):
    """An argument is not of the kind that its name asks for; caught as a TypeError and as a ValueError."""


class Kind(NamedTuple):
    words: str
    holds: Callable


def shown(value):
    """A value in an error's sentence: tensors by shape and dtype, others by their text, cut to 80 characters."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}" + (f", on {value.device}" if value.device.type != "cpu" else "")
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---- what holds of a value
def _tensor(v):
    return isinstance(v, torch.Tensor) and v.device.type != "meta"


def _real(v):
    if isinstance(v, torch.Tensor):
        return _tensor(v) and v.dim() == 0 and not v.is_complex() and v.dtype != torch.bool and bool(v == v)
    return isinstance(v, Real) and not isinstance(v, (bool, np.bool_)) and v == v


def _integer(v):
    return isinstance(v, int) and not isinstance(v, bool)


def _whole(v):
    return isinstance(v, Integral) and not isinstance(v, bool)


def _several(holds):
    return lambda v: isinstance(v, (tuple, list, range)) and all(map(holds, v)) or isinstance(v, np.ndarray) and v.ndim == 1 and all(map(holds, v.tolist()))


def _array(v):
    if isinstance(v, torch.Tensor):
        return _tensor(v)
    if not isinstance(v, (np.ndarray, list, tuple, Real, complex, np.number)):
        return False
    try:
        torch.as_tensor(v)
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def _device(v):
    try:
        return isinstance(v, (str, torch.device)) and torch.device(v).type != "meta"
    except RuntimeError:
        return False


def _either(*holds):
    return lambda v: any(h(v) for h in holds)


def _of(module, *names):
    """Instances of a class of ours, which loads once a value is looked at."""
    @functools.cache
    def classes():
        import importlib

        return tuple(getattr(importlib.import_module(f"paralift.{module}"), name) for name in names)

    return lambda v: isinstance(v, classes())


_space, _integers, _reals = _of("operators.space", "Space"), (lambda v: isinstance(v, (tuple, list, range)) and all(map(_whole, v))), _several(_real)
ANY = Kind("", lambda v: True)                                   # its callable looks at it
WORD = Kind("one of its names, or an object", lambda v: not isinstance(v, (torch.Tensor, np.ndarray, list, dict, set)))
PLAIN = Kind("no tensor", lambda v: not isinstance(v, (torch.Tensor, np.ndarray)))
REAL = Kind("a real number, or inf", _real)
NUMBER = Kind("a finite real number", lambda v: _real(v) and abs(v) < math.inf)
POSITIVE = Kind("a finite number > 0", lambda v: _real(v) and 0 < v < math.inf)
INTEGER = Kind("an integer", _integer)
COUNT = Kind("an integer >= 1", lambda v: _integer(v) and v >= 1)
SEED = Kind("an integer from 0 to 4294967295", lambda v: _integer(v) and 0 <= v < 2**32)
FLAG = Kind("True or False", lambda v: isinstance(v, (bool, np.bool_)))
TEXT = Kind("a str", lambda v: isinstance(v, str))
NUMBERS = Kind("a finite number, or one for each axis", _either(_real, _reals, lambda v: _tensor(v) and v.dim() == 1 and not v.is_complex()))
INTEGERS = Kind("an integer or a sequence of integers", _either(_integer, _integers))
SEQUENCE = Kind("a sequence of integers", _integers)
SHAPE = Kind("lengths of axes, integers >= 0", lambda v: _integers(v) and all(n >= 0 for n in v))
SPACE = Kind("a Space, an integer or a sequence of integers >= 0", _either(_space, lambda v: _integer(v) and v >= 0, lambda v: _integers(v) and all(n >= 0 for n in v)))
SPACES = Kind("a Space", _space)
TENSOR = Kind("a tensor that holds data (torch.as_tensor(...) makes one)", _tensor)
ARRAY = Kind("a tensor, or numbers that torch.as_tensor takes", _array)
QUANTITY = Kind("a number or a tensor", _either(_real, _tensor))
DTYPE = Kind("a floating-point or complex torch.dtype", lambda v: isinstance(v, torch.dtype) and (v.is_floating_point or v.is_complex))
DTYPES = Kind("a torch.dtype", lambda v: isinstance(v, torch.dtype))
DEVICE = Kind("a torch device that holds data, such as 'cpu'", _device)
PATH = Kind("a path, a str or os.PathLike", lambda v: isinstance(v, os.PathLike) or isinstance(v, str) and v != "" and "\0" not in v)
CALLABLE = Kind("a function or a module", callable)
MODULE = Kind("a torch.nn.Module", lambda v: isinstance(v, torch.nn.Module))
FUNCTIONAL = Kind("a Functional, such as L1Norm()", _of("operators.functional", "Functional"))
OPERATOR = Kind("a LinearOperator, such as MatrixOperator(m)", _of("operators.operator", "LinearOperator"))
MAP = Kind("an Operator", _of("operators.operator", "Operator"))
PENALTY = Kind("a Penalty, such as LiftedBregman(ReLU())", _of("operators.penalties", "Penalty"))
GEOMETRY = Kind("a Geometry, such as CylindricalScanner(...)", _of("operators.geometry", "Geometry"))
EVENTS = Kind("Events", _of("operators.list_mode", "Events"))
TOF = Kind("a TimeOfFlight(bins, width, fwhm)", _of("operators.time_of_flight", "TimeOfFlight"))
NUFFT_ = Kind("a NUFFT", _of("operators.nufft", "NUFFT"))
PROBLEM = Kind("a Problem", _of("problems.problem", "Problem"))
TRAINING = Kind("a LiftedTraining", _of("problems.lifted", "LiftedProblem"))
SOLVER = Kind("a Solver, such as FISTA(200)", _of("solvers.solver", "Solver"))
COSTS = Kind("a StageCosts", _of("distributed.costs", "StageCosts"))
MACHINE = Kind("a Machine", _of("distributed.machine", "Machine"))
LINK = Kind("a Link", _of("distributed.costs", "Link"))
RESULT = Kind("a Result", _of("solvers.result", "Result"))
SERIES = Kind("a sequence of finite numbers",
              lambda v: isinstance(v, (list, tuple)) and all(map(_real, v)) or isinstance(v, np.ndarray) and v.ndim == 1 and all(map(_real, v)) or _tensor(v) and v.dim() == 1)
PART = Kind("torch.nn.Modules and Functionals", _either(lambda v: isinstance(v, torch.nn.Module), FUNCTIONAL.holds))
LAYOUTS = Kind("a list of Layouts", lambda v: isinstance(v, (list, tuple)) and all(map(_of("distributed.costs", "Layout"), v)))
PATTERNS = Kind("a name, or a sequence of names", lambda v: isinstance(v, str) or isinstance(v, (list, tuple, set)) and all(isinstance(n, str) for n in v))
SLICES = Kind("an integer or a slice", lambda v: _integer(v) or isinstance(v, slice))
MATRIX = Kind("finite numbers (4, 4)", lambda v: _array(v) and np.shape(v) == (4, 4))
LIMITS = Kind("two numbers", lambda v: _reals(v) and len(v) == 2)
RHO = Kind("a number, or {layer: number}", _either(_real, lambda v: isinstance(v, dict)))
FACTORS = Kind("{worker: factor}", lambda v: isinstance(v, dict))
TABLES = Kind("a tuple with an entry a stage", lambda v: isinstance(v, (list, tuple)))
ITEMS = Kind("a tensor, an array or a list", lambda v: isinstance(v, (list, tuple)) or (isinstance(v, np.ndarray) or _tensor(v)) and v.ndim > 0)
PRICED = Kind("a LiftedTraining or a StageCosts", _either(TRAINING.holds, COSTS.holds))
PICTURES = Kind("a dict of tensors (n, h, w), arrays or lists of images", lambda v: isinstance(v, dict) and len(v) > 0 and all(map(ITEMS.holds, v.values())))
TABLE = Kind("a dict of tensors", lambda v: isinstance(v, dict) and all(map(_tensor, v.values())))


NAMES = {name: kind for kind, names in (
    # what a name means, wherever it appears; ANY: the callable says itself what it takes
    (ANY, "activation_regulariser budget continuation data denoiser example_inputs forced frozen functional geometry groups image inputs kernel layers linear mask max_delay "
              "module network "
          "nonsmooth obj operator parts potential preconditioner problem product products reconstruct regulariser rho runs smooth stages start strong_convexity targets "
              "term transform "
          "validation weight_regulariser workers"),
    (WORD, "acceleration angle attention column complex_as constraint fidelity kind loss metric order padding refresh restart schedule storage variant wavelet"),
    (PLAIN, "delays penalty probabilities step subsets"),
    (REAL, "cores truncation"),
    (NUMBER, "a alpha average bandwidth beta bound change constant crop delta discount dropout eta factor feedback field_tolerance gap gather grow inertia kvp "
             "label_smoothing latency length level momentum mu noise noise_level objective offset overlap passes power radius ratio relaxation residual "
             "resonance_frequency rotation safety seconds shrink slope smoothing t tau test threshold timeout tolerance turns value variation visit weight weight_decay"),
    (POSITIVE, "bin_width ring_spacing"),
    (INTEGER, "axis bins block channel_axis crystals ignore_index levels max_iterations max_ring_difference memory ndim rings sets span"),
    (COUNT, "batch_size channels classes coils columns context depth dimension filters heads inner inner_steps inner_sweeps interleaves iterations limit max_solves "
            "microbatches outputs patch patience readout repeats rounds rows samples shards side size spokes steps trials vocabulary width"),
    (SEED, "seed"),
    (FLAG, "asynchronous balancing bias bottleneck convex deterministic equispaced exact flatten gradients isotropic largest nonnegative orthonormal shard_parameters "
           "takes_level"),
    (TEXT, "axial dataset text title who"),
    (NUMBERS, "field_of_view fwhm origin resolution spacing voxel_size"),
    (INTEGERS, "axes calibration index shape"),
    (SEQUENCE, "blocks widths"),
    (SPACE, "input_shape space"),
    (SPACES, "domain range spaces"),
    (TENSOR, "bin labels like output plane point q source subgrad target time tof_bin v view x y z"),
    (ARRAY, "angles attenuation background coil_maps ct end field_map images kspace matrix readout_times reference rhs sensitivity standard_deviation trajectory "
            "vector weights"),
    (QUANTITY, "lower peak shift upper"),
    (DTYPE, "dtype"),
    (DEVICE, "device"),
    (PATH, "path"),
    (CALLABLE, "activation"),
    (FUNCTIONAL, "f functionals g"),
    (OPERATOR, "op"),
    (MAP, "operators"),
    (GEOMETRY, "scanner"),
    (EVENTS, "events"),
    (TOF, "tof"),
    (NUFFT_, "nufft"),
    (SOLVER, "solver"),
    (COSTS, "costs"),
    (LINK, "link messages sums"),
    (MACHINE, "machine"),
    (RESULT, "result"),
    (PATTERNS, "granularity schedules"),
    (FACTORS, "slow"),
    # where a callable means something else by it
    (ANY, "Composite.operators ISGM.inner ISGM.momentum LearnedRegulariser.start LeastSquares.op LiftedProblem.inputs MLP.sizes "
          "Solver.acceleration Solver.accumulate Solver.asynchronous Solver.average Solver.batch_size Solver.epochs Solver.inertia Solver.inner "
          "Solver.inner_steps Solver.max_iterations Solver.max_seconds Solver.memory Solver.shards Solver.sweeps Solver.tau Solver.tolerance Solver.weight_decay "
          "Stage.operator Storage.dtype Tolerance.change Tolerance.gap Tolerance.objective Tolerance.passes Tolerance.residual Tolerance.seconds "
          "TotalGeneralisedVariation.alpha Workers.total characters.text partition.parts simulate.costs"),
    (REAL, "DirectionalGradient.eta DirectionalTotalVariation.eta Link.bandwidth Simulation.bandwidth layouts.memory simulate.bandwidth"),
    (NUMBER, "ADMM.rho LearnedRegulariser.rho Link.all_reduce.size Link.all_reduce.workers Link.transfer.size SourceCondition.range_data.alpha StageCosts.backward_seconds.rows "
             "StageCosts.forward_seconds.rows StageCosts.seconds.rows StageCosts.uniform.backward StageCosts.uniform.boundary_bytes StageCosts.uniform.fixed "
             "StageCosts.uniform.forward StageCosts.uniform.parameter_bytes TimeOfFlight.fwhm TimeOfFlight.width discrepancy_weight.start phantom.noise "
             "reweighted.weight"),
    (INTEGER, "read_ismrmrd.encoding"),
    (COUNT, "CausalTransformer.blocks ProximalNetwork.kernel StageCosts.uniform.stages UnrolledNetwork.kernel VisionTransformer.blocks affine.inputs"),
    (ANY, "LiftedInversion.output"),
    (PATH, "Storage.folder"),
    (RHO, "ContrastiveTraining.rho"),
    (TABLES, "StageCosts.messages.groups"),
    (SERIES, "write_ismrmrd.field_of_view"),
    (FLAG, "PGD.restart UNet.residual"),
    (INTEGERS, "RayTransform.shape GroupHuber.axis GroupL1Norm.axis HadamardTransform.axes espirit.kernel simulate.workers"),
    (SEQUENCE, "JosephProjector.shape PET.shape emission_phantom.shape line_groups.shape phantom.shape spoke_groups.shape"),
    (TENSOR, "Composite.start Events.tof KullbackLeibler.data LeastSquares.data MAC.target SourceCondition.range_data.v SourceCondition.reconstruction.data "
             "ToeplitzOperator.weights metrics.reference mix_coils.matrix nrmse.reference plot_reconstruction.reference psnr.reference rescale.inputs "
             "root_sum_of_squares.images ssim.reference write_ismrmrd.kspace write_ismrmrd.noise"),
    (ARRAY, "Convolution.kernel FilterBank.filters Rays.start prewhiten.noise"),
    (QUANTITY, "inversion_error_bound.noise inversion_error_bound.weight"),
    (DTYPES, "histogram.dtype"),
    (MODULE, "rescale.network"),
    (FUNCTIONAL, "BregmanDistance.functional FunctionalLoss.functional"),
    (PENALTY, "PenaltyLoss.penalty"),
    (GEOMETRY, "Events.index.geometry"),
    (SERIES, "Simulated.speeds partition.costs quasi_optimality_weight.weights"),
    (PART, "chain.parts"),
    (LAYOUTS, "layout_table.found"),
    (PATTERNS, "ContrastiveTraining.frozen LiftedTraining.frozen"),
    (SLICES, "read_fastmri.slices"),
    (MATRIX, "write_nifti.affine"),
    (LIMITS, "plot_images.limits share"),
    (TABLES, "StageCosts.backward StageCosts.forward StageCosts.output_bytes StageCosts.parameter_bytes StageCosts.parents StageCosts.update"),
    (ITEMS, "Staged.stages plot_images.titles plot_predictions.images plot_predictions.labels plot_predictions.predicted"),
    (PRICED, "simulate.problem"),
    (PICTURES, "plot_images.rows"),
    (TABLE, "SourceCondition.start"),
) for name in names.split()}


@functools.cache
def kind_of(owner, name):
    """The kind of the argument `name` of a class or function; ANY where nothing is known."""
    for place in owner:
        if f"{place}.{name}" in NAMES:
            return NAMES[f"{place}.{name}"]
    return NAMES.get(name, ANY)


def check(who, name, kind, value):
    if not kind.holds(value):
        raise ArgumentError(f"{who} got {name}={shown(value)}; it needs {kind.words}.")


def checked(made: Any, owner: Any = None) -> Any:
    """A class whose constructor, or a function or method that, looks at the kinds of its arguments first; the default of an argument passes as it is."""
    if isinstance(made, type):
        first = next(c for c in made.__mro__ if "__init__" in vars(c))
        if made.__module__.startswith("paralift.") and made.__name__[0] != "_" and (first is made or first.__name__[0] == "_"):           # what users derive is theirs
            made.__init__ = checked(made.__init__, made)  # type: ignore[misc]
        return made
    places = tuple(c.__name__ for c in owner.__mro__) if owner else (made.__qualname__, made.__name__)
    found = [(p.name, FLAG if p.annotation is bool else kind_of(places, p.name), p.default, p.kind) for p in list(inspect.signature(made).parameters.values())[bool(owner):]]
    plain = [(name, kind, default) for name, kind, default, sort in found if sort is not inspect.Parameter.VAR_POSITIONAL]
    rest = next(((name, kind) for name, kind, _, sort in found if sort is inspect.Parameter.VAR_POSITIONAL), None)
    table, inside = {name: (kind, default) for name, kind, default in plain}, bool(owner)
    if all(kind is ANY for _, kind, _, _ in found):
        return made

    @functools.wraps(made)
    def call(*given, **named):
        who = type(given[0]).__name__ if inside else made.__qualname__
        if rest is not None:
            for value in given[inside:]:
                check(who, *rest, value)
        else:
            for (name, kind, default), value in zip(plain, given[inside:]):
                if value is not default:
                    check(who, name, kind, value)
        for name, value in named.items():
            kind, default = table.get(name, (ANY, None))
            if value is not default:
                check(who, name, kind, value)
        try:
            return made(*given, **named)
        except (RuntimeError, IndexError) as error:
            refuse(error, who, [*given[inside:], *named.values()])

    return call


def refuse(error, who, values) -> NoReturn:
    """Raise what torch's `error` means for who(values): an ArgumentError with both, or the error itself where it is ours or memory ran out."""
    abstract = type(error) is NotImplementedError and not re.search("not implemented for|not supported|Could not run|meta tensor", str(error))
    if abstract or _raised_here(error) or isinstance(error, torch.OutOfMemoryError):
        raise error
    text = " ".join(str(error).split("\n")[0].split()).rstrip(".")
    raise ArgumentError(f"{who} cannot compute with {', '.join(map(shown, values))}: {text}.") from error


def _raised_here(error):
    """Whether a `raise` of this package made the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_globals.get("__name__", "").startswith("paralift."):
        return False
    return linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).lstrip().startswith("raise ")
