"""What the names of arguments mean. A name is of one kind wherever it appears; `checked` refuses a value of another kind in a sentence, before any work.

Kinds are looked at where objects are made and functions called, never in a product or a prox. Ranges that belong to one class alone are that class's.
"""

import functools
import inspect
import math
import os
from numbers import Integral, Real
from typing import Callable, NamedTuple

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


_space, _integers, _reals = _of("operators.space", "Space"), _several(_integer), _several(_real)
ANY = Kind("", lambda v: True)                                   # its callable looks at it
REAL = Kind("a real number, or inf", _real)
NUMBER = Kind("a finite real number", lambda v: _real(v) and abs(v) < math.inf)
POSITIVE = Kind("a finite number > 0", lambda v: _real(v) and 0 < v < math.inf)
INTEGER = Kind("an integer", _integer)
COUNT = Kind("an integer >= 1", lambda v: _integer(v) and v >= 1)
SEED = Kind("an integer from 0 to 4294967295", lambda v: _integer(v) and 0 <= v < 2**32)
FLAG = Kind("True or False", lambda v: isinstance(v, (bool, np.bool_)))
TEXT = Kind("a str", lambda v: isinstance(v, str))
NUMBERS = Kind("a real number, or one for each axis", _either(_real, _reals, lambda v: _tensor(v) and v.dim() == 1 and not v.is_complex()))
INTEGERS = Kind("an integer or a sequence of integers", _either(_integer, _integers))
SEQUENCE = Kind("a sequence of integers", _integers)
SHAPE = Kind("lengths of axes, integers >= 0", lambda v: _integers(v) and all(n >= 0 for n in v))
SPACE = Kind("a Space, an integer or a sequence of integers >= 0", _either(_space, lambda v: _integer(v) and v >= 0, lambda v: _integers(v) and all(n >= 0 for n in v)))
SPACES = Kind("a Space", _space)
TENSOR = Kind("a tensor that holds data (torch.as_tensor(...) makes one)", _tensor)
ARRAY = Kind("a tensor, or numbers that torch.as_tensor takes", _array)
QUANTITY = Kind("a number or a tensor", _either(_real, _tensor))
DTYPE = Kind("a floating-point or complex torch.dtype", lambda v: isinstance(v, torch.dtype) and (v.is_floating_point or v.is_complex))
DEVICE = Kind("a torch device that holds data, such as 'cpu'", _device)
PATH = Kind("a path, a str or os.PathLike", lambda v: isinstance(v, os.PathLike) or isinstance(v, str) and v != "" and "\0" not in v)
CALLABLE = Kind("a function or a module", callable)
MODULE = Kind("a torch.nn.Module", lambda v: isinstance(v, torch.nn.Module))
FUNCTIONAL = Kind("a Functional, such as L1Norm()", _of("operators.functional", "Functional"))
OPERATOR = Kind("a LinearOperator, such as MatrixOperator(m)", _of("operators.operator", "LinearOperator"))
PENALTY = Kind("a Penalty, such as LiftedBregman(ReLU())", _of("operators.penalties", "Penalty"))
GEOMETRY = Kind("a Geometry, such as CylindricalScanner(...)", _of("operators.geometry", "Geometry"))
EVENTS = Kind("Events", _of("operators.list_mode", "Events"))
TOF = Kind("a TimeOfFlight(bins, width, fwhm)", _of("operators.time_of_flight", "TimeOfFlight"))
NUFFT_ = Kind("a NUFFT", _of("operators.nufft", "NUFFT"))
PROBLEM = Kind("a Problem", _of("problems.problem", "Problem"))
TRAINING = Kind("a LiftedTraining", _of("problems.lifted", "LiftedProblem"))
SOLVER = Kind("a Solver, such as FISTA(200)", _of("solvers.solver", "Solver"))
COSTS = Kind("a StageCosts", _of("distributed.costs", "StageCosts"))
LINK = Kind("a Link", _of("distributed.costs", "Link"))
RESULT = Kind("a Result", _of("solvers.result", "Result"))
TABLE = Kind("a dict of tensors", lambda v: isinstance(v, dict) and all(map(_tensor, v.values())))


def _names(kind, names):
    return dict.fromkeys(names.split(), kind)


NAMES = {
    # what a name means, wherever it appears; ANY: the callable says itself what it takes
    **_names(ANY, "acceleration activation_regulariser angle attention budget column complex_as constraint coils_given data delays denoiser device_or_none drawn example_inputs "
                  "fidelity forced frozen functional geometry granularity groups image inputs kernel linear loss mask max_delay metric module network nonsmooth obj operator order "
                  "padding penalty potential preconditioner probabilities problem product products refresh regulariser restart rho runs schedule schedules slow smooth stages "
                  "start step storage strong_convexity subsets targets term transform validation variant wavelet weight_regulariser workers"),
    **_names(NUMBER, "a alpha beta bound change constant crop delta discount dropout eta factor feedback field_tolerance gap grow label_smoothing latency length momentum mu "
                     "noise noise_level objective offset overlap passes power radius ratio relaxation residual rotation safety seconds shrink slope smoothing t tau threshold "
                     "timeout tolerance truncation turns variation weight bandwidth average inertia weight_decay acceleration_factor kvp test"),
    **_names(POSITIVE, "bin_width ring_spacing"),
    **_names(INTEGER, "axis bins block channel_axis crystals ignore_index levels max_iterations max_ring_difference memory ndim rings sets span"),
    **_names(COUNT, "batch_size channels classes coils context depth dimension filters heads inner inner_steps inner_sweeps interleaves iterations limit max_solves microbatches "
                    "outputs patch patience readout repeats rows samples shards side size spokes steps trials vocabulary width"),
    **_names(SEED, "seed"),
    **_names(FLAG, "asynchronous balancing bias bottleneck convex equispaced exact flatten isotropic largest nonnegative orthonormal takes_level"),
    **_names(TEXT, "dataset text"),
    **_names(NUMBERS, "field_of_view fwhm origin resolution spacing voxel_size"),
    **_names(INTEGERS, "axes calibration index shape"),
    **_names(SEQUENCE, "blocks widths"),
    **_names(SPACE, "input_shape space"),
    **_names(SPACES, "domain range spaces"),
    **_names(TENSOR, "bin labels output plane point q source subgrad target time tof_bin view x z"),
    **_names(ARRAY, "angles attenuation background coil_maps ct end field_map images kspace matrix readout_times reference rhs sensitivity standard_deviation trajectory vector "
                    "weights"),
    **_names(QUANTITY, "lower peak shift upper"),
    **_names(DTYPE, "dtype"), **_names(DEVICE, "device"), **_names(PATH, "path"), **_names(CALLABLE, "activation"),
    **_names(FUNCTIONAL, "f functionals g"), **_names(OPERATOR, "op operators"), **_names(GEOMETRY, "scanner"), **_names(EVENTS, "events"), **_names(TOF, "tof"),
    **_names(NUFFT_, "nufft"), **_names(SOLVER, "solver"), **_names(COSTS, "costs"), **_names(LINK, "link"), **_names(RESULT, "result"),
    **_names(TENSOR, "SourceCondition.range_data.v SourceCondition.reconstruction.data"), **_names(GEOMETRY, "Events.index.geometry"), **_names(TRAINING, "measured_costs.problem stage_costs.problem"),
    **_names(ARRAY, "ToeplitzOperator.weights"),
    # where a callable means something else by it
    **_names(REAL, "DirectionalGradient.eta DirectionalTotalVariation.eta Link.bandwidth Simulation.bandwidth simulate.bandwidth layouts.memory truncation"),
    **_names(SEQUENCE, "JosephProjector.shape PET.shape phantom.shape emission_phantom.shape spoke_groups.shape line_groups.shape"),
    **_names(ANY, "Composite.operators ISGM.inner ISGM.momentum LearnedRegulariser.start LeastSquares.op MLP.sizes Reconstruction.standard_deviation Solver.acceleration "
                  "Solver.inner Solver.max_iterations Solver.epochs Solver.batch_size Solver.max_seconds Solver.tolerance Solver.shards Solver.sweeps Solver.accumulate "
                  "Solver.inner_steps Solver.tau Solver.inertia Solver.weight_decay Solver.average Solver.memory Solver.asynchronous TotalGeneralisedVariation.alpha "
                  "PGD.restart plot_images.rows Storage.dtype Storage.folder Tolerance.residual Tolerance.change Tolerance.gap Tolerance.objective Tolerance.seconds Tolerance.passes Workers.total "
                  "affine.inputs chain.parts characters.text partition.costs partition.parts simulate.costs Stage.operator LiftedProblem.inputs"),
    **_names(NUMBER, "TimeOfFlight.fwhm TimeOfFlight.width phantom.noise Link.transfer.size Link.all_reduce.size Link.all_reduce.workers StageCosts.seconds.rows "
                     "StageCosts.forward_seconds.rows StageCosts.backward_seconds.rows StageCosts.uniform.fixed StageCosts.uniform.forward StageCosts.uniform.backward "
                     "StageCosts.uniform.parameter_bytes StageCosts.uniform.boundary_bytes reweighted.weight SourceCondition.range_data.alpha"),
    **_names(INTEGERS, "GroupL1Norm.axis GroupHuber.axis HadamardTransform.axes espirit.kernel"),
    **_names(COUNT, "StageCosts.uniform.stages CausalTransformer.blocks VisionTransformer.blocks ProximalNetwork.kernel UnrolledNetwork.kernel affine.inputs"),
    **_names(ARRAY, "Convolution.kernel Rays.start prewhiten.noise FilterBank.filters"), **_names(TENSOR, "Events.tof write_ismrmrd.noise write_ismrmrd.kspace KullbackLeibler.data "
             "LeastSquares.data MAC.target Composite.start metrics.reference psnr.reference nrmse.reference ssim.reference mix_coils.matrix root_sum_of_squares.images"),
    **_names(QUANTITY, "inversion_error_bound.weight inversion_error_bound.noise"),
    **_names(FUNCTIONAL, "BregmanDistance.functional FunctionalLoss.functional"), **_names(PENALTY, "PenaltyLoss.penalty"), **_names(MODULE, "rescale.network"),
}


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


def checked(made, owner=None):
    """A class whose constructor, or a function or method that, looks at the kinds of its arguments first; the default of an argument passes as it is."""
    if isinstance(made, type):
        if "__init__" in vars(made) and made.__module__.startswith("paralift.") and made.__name__[0] != "_":           # what users derive is theirs
            made.__init__ = checked(made.__init__, made)
        return made
    places = tuple(c.__name__ for c in owner.__mro__) if owner else (made.__qualname__, made.__name__)
    found = [(p.name, kind_of(places, p.name), p.default, p.kind) for p in list(inspect.signature(made).parameters.values())[bool(owner):]]
    plain = [(name, kind, default) for name, kind, default, sort in found if sort is not inspect.Parameter.VAR_POSITIONAL]
    rest = next(((name, kind) for name, kind, _, sort in found if sort is inspect.Parameter.VAR_POSITIONAL), None)
    table, first = {name: (kind, default) for name, kind, default in plain}, bool(owner)
    if all(kind is ANY for _, kind, _, _ in found):
        return made

    @functools.wraps(made)
    def call(*given, **named):
        who = type(given[0]).__name__ if first else made.__qualname__
        if rest is not None:
            for value in given[first:]:
                check(who, *rest, value)
        else:
            for (name, kind, default), value in zip(plain, given[first:]):
                if value is not default:
                    check(who, name, kind, value)
        for name, value in named.items():
            kind, default = table.get(name, (ANY, None))
            if value is not default:
                check(who, name, kind, value)
        try:
            return made(*given, **named)
        except (RuntimeError, IndexError) as error:
            refuse(error, who, [*given[first:], *named.values()])

    return call


def refuse(error, who, values):
    """Raise what torch's `error` means for who(values): an ArgumentError with both, or the error itself where it is ours or memory ran out."""
    if isinstance(error, torch.OutOfMemoryError) or type(error) is NotImplementedError and "not implemented for" not in str(error):
        raise error
    text = " ".join(str(error).split("\n")[0].split()).rstrip(".")
    raise ArgumentError(f"{who} cannot compute with {', '.join(map(shown, values))}: {text}.") from error
