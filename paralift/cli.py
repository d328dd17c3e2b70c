"""The command `paralift`: what is installed, a demo, a benchmark of this machine."""

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from . import __version__
from .files import places

__all__ = ["main", "info"]

REQUIRED = ("numpy", "scipy", "matplotlib", "odl", "pyproximal", "pylops", "tqdm")
OPTIONAL = {                # distribution: its extra, what it is for
    "scikit-learn": ("examples", "the digits of pl.data.digits(), which the demo trains on"),
    "scikit-image": ("examples", "pictures in the examples"),
    "finufft": ("nufft", "NUFFT: MRI along trajectories"),
    "PyWavelets": ("imaging", "Wavelet"),
    "h5py": ("imaging", "fastMRI and ISMRMRD files, data sets of slices"),
    "ismrmrd": ("imaging", "writing ISMRMRD files"),
    "nibabel": ("imaging", "NIfTI files"),
}


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _devices():
    found = [f"cpu, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(f"cuda:{i}, {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return "; ".join(found + ["mps"] * torch.backends.mps.is_available())


def _backends():
    if not torch.distributed.is_available():
        return "none: this build of torch has no torch.distributed, so workers=N is refused"
    known = {"gloo": torch.distributed.is_gloo_available, "nccl": torch.distributed.is_nccl_available}
    return ", ".join(f"{name} {'present' if there() else 'missing'}" for name, there in known.items())


def _data():
    root, cache = os.environ.get("PARALIFT_DATA"), places("")[-1]
    given = f"PARALIFT_DATA={root}{'' if Path(root).is_dir() else ', which is no folder'}" if root else "PARALIFT_DATA is not set"
    return f"{given}; downloads go to {cache}"


def info() -> str:
    """What a report of a fault needs: versions, optional packages and what each is for, devices, backends, threads, folders of data sets."""
    omp = os.environ.get("OMP_NUM_THREADS")
    lines = [("paralift", f"{__version__}, {Path(__file__).parent}"), ("Python", f"{platform.python_version()}, {platform.platform()}"), ("torch", torch.__version__),
             *((name, _version(name)) for name in REQUIRED), ("", ""),
             *((name, f"{_version(name):<12}{f'[{extra}]':<12}{use}") for name, (extra, use) in OPTIONAL.items()), ("", ""),
             ("devices", _devices()), ("backends", _backends()), ("data", _data()),
             ("threads", f"{torch.get_num_threads()}, OMP_NUM_THREADS{f'={omp}' if omp else ' is not set'}")]
    missing = sorted({extra for name, (extra, _) in OPTIONAL.items() if _version(name) == "missing"})
    return "\n".join(f"{name:<14}{text}".rstrip() for name, text in lines) + (f"\n\nfor what is missing: pip install 'paralift[{','.join(missing)}]'" if missing else "")


def _parser():
    parser = argparse.ArgumentParser("paralift", description="PARALIFT: train deep networks by lifting, without differentiating their activations.")
    parser.add_argument("--version", action="version", version=f"paralift {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    commands.add_parser("info", help="versions, optional packages, devices, threads and data folders; add it to a report of a fault", description=info.__doc__)
    demo = commands.add_parser("demo", help="train a network on the digits and draw two figures (seconds)", description="Train a network with sparse weights on the digits by "
                               "lifted Bregman; print the problem and the result; draw its convergence and some predictions. Needs scikit-learn: pip install 'paralift[examples]'.")
    demo.add_argument("--epochs", type=int, default=40, metavar="N", help="passes over the samples (%(default)s)")
    demo.add_argument("--quick", action="store_true", help="two passes")
    demo.add_argument("--output", type=Path, default=Path("output"), metavar="DIR", help="folder of the figures (%(default)s)")
    bench = commands.add_parser("bench", help="four ratios that tell how this machine compares (a minute)", description="Time a pass of training, a prox, a scan and two workers, "
                                "each by turns with the same work in bare torch or by one worker, one thread a process. The full benchmarks are in benchmarks/ of the sources.")
    bench.add_argument("--quick", action="store_true", help="smaller work and fewer rounds: seconds, and rough figures")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command on `arguments`, by default those of the process; returns its exit status: 0, 1 where a package is missing, 2 for a wrong command line."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "info":
            print(info())
        elif given.command == "demo":
            from .demo import demo

            demo(given.output, 2 if given.quick else given.epochs)
        else:
            from .bench import bench

            bench(given.quick)
    except ImportError as error:
        print(f"paralift {given.command}: {error}", file=sys.stderr)
        return 1
    return 0
