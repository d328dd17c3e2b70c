"""Data sets: digits (scikit-learn's, always there), MNIST and Fashion-MNIST in IDX form, tinyshakespeare, and those of imaging."""

import gzip
import hashlib
import struct
import urllib.request

import numpy as np
import torch

from .arguments import Seed, checked
from .data_imaging import brain, emission_phantom, fdg_slices, mri_slices, phantom
from .files import places, replacing

__all__ = ["digits", "mnist", "fashion_mnist", "tinyshakespeare", "characters", "brain", "mri_slices", "fdg_slices", "phantom", "emission_phantom"]

_Pair = tuple[torch.Tensor, torch.Tensor]

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_SOURCES = {          # address; md5 of the four unpacked files, for archives of the same data differ in their time stamps
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/", (
        "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624", "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637")),
    "fashion_mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9", "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965")),
}

_TEXT = ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt", "6fb458f1232090904fb40fe944165e91")


@checked
def digits(test: float = 0.25, seed: Seed = 0) -> tuple[_Pair, _Pair]:
    """scikit-learn's 1797 digits: ((x, y), (x_test, y_test)), x (n, 64) in [0, 1], labels 0 to 9; `test` is the share of the test set, in [0, 1)."""
    if not 0 <= test < 1:
        raise ValueError(f"digits got test={test}; it needs the share of the test set, in [0, 1).")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("digits() needs scikit-learn; install it with: pip install 'paralift[examples]'") from None
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = torch.tensor(x, dtype=torch.float32)[order] / 16, torch.tensor(y, dtype=torch.int64)[order]
    n = round(len(x) * (1 - float(test)))
    return (x[:n], y[:n]), (x[n:], y[n:])


@checked
def mnist(flatten: bool = True) -> tuple[_Pair, _Pair]:
    """MNIST: ((x, y), (x_test, y_test)), x (60000, 784) or (60000, 28, 28) in [0, 1], y int64."""
    return _idx_set("mnist", flatten)


@checked
def fashion_mnist(flatten: bool = True) -> tuple[_Pair, _Pair]:
    """Fashion-MNIST, as `mnist`."""
    return _idx_set("fashion_mnist", flatten)


def tinyshakespeare() -> str:
    """About 40,000 lines of Shakespeare, 1.1 million characters, as one str."""
    name, file = "text", "tinyshakespeare.txt"
    found = next((place / file for place in places(name) if (place / file).exists()), None)
    if found is None:
        base, checksum = _TEXT
        try:
            found = _fetch(base, places(name)[-1] / file, lambda raw: hashlib.md5(raw).hexdigest() == checksum)
        except OSError as error:
            raise FileNotFoundError(f"{file} was looked for in {', '.join(map(str, places(name)))}, and the download failed ({error}); "
                                    "put the file into one of these folders, or set PARALIFT_DATA to the folder that holds text/.") from None
    return found.read_text(encoding="utf-8")


@checked
def characters(text: str) -> tuple[torch.Tensor, str]:
    """(tokens, alphabet): the characters of `text` as int64 numbers, in the order of the alphabet, a str."""
    if not isinstance(text, str) or not text:
        raise TypeError(f"characters got {type(text).__name__} of length {len(text) if hasattr(text, '__len__') else '?'}; it needs a str that is not empty.")
    codes = torch.from_numpy(np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64))
    alphabet, tokens = torch.unique(codes, return_inverse=True)
    return tokens, "".join(map(chr, alphabet.tolist()))


def _idx_set(name, flatten):
    arrays = [_parse_idx(_find(name, i)) for i in range(4)]
    sets = []
    for images, labels in (arrays[:2], arrays[2:]):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise ValueError(f"{name}: images of shape {images.shape} and labels of shape {labels.shape} do not belong together; remove the files and fetch them again.")
        x = torch.from_numpy(images).float().div_(255)
        sets.append((x.flatten(1) if flatten else x, torch.from_numpy(labels.astype(np.int64))))
    return tuple(sets)


def _find(name, index):
    folders = places(name)
    for place in folders:
        for file in (place / f"{_FILES[index]}.gz", place / _FILES[index]):
            if file.exists():
                return file
    try:
        return _download(name, index, folders[-1])
    except (OSError, EOFError) as error:
        raise FileNotFoundError(f"{name}: {_FILES[index]}(.gz) was looked for in {', '.join(map(str, folders))}, and the download failed ({error}); "
                                f"put the four IDX files into one of these folders, or set PARALIFT_DATA to the folder that holds {name}/.") from None


def _download(name, index, folder):
    base, checksums = _SOURCES[name]
    return _fetch(f"{base}{_FILES[index]}.gz", folder / f"{_FILES[index]}.gz", lambda packed: hashlib.md5(gzip.decompress(packed)).hexdigest() == checksums[index])


def _fetch(address, path, right):
    """Download to `path`, written atomically once `right(bytes)` holds."""
    with urllib.request.urlopen(address, timeout=20) as response:
        raw = response.read()
    if not right(raw):
        raise ValueError(f"the downloaded {path.name} has a wrong checksum; fetch it from another place than {address} and put it into {path.parent}.")
    with replacing(path) as temporary:
        temporary.write_bytes(raw)
    return path


def _parse_idx(path):
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        zero, kind, ndim = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{ndim}I", raw[4:4 + 4 * ndim])
    except (OSError, EOFError, struct.error) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and fetch it again.") from None
    if zero or kind != 8 or len(raw) != 4 + 4 * ndim + int(np.prod(shape)):
        raise ValueError(f"{path} is no IDX file of bytes, or is cut short (header {zero}, {kind}, {shape}; {len(raw)} bytes); remove it and fetch it again.")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape).copy()
