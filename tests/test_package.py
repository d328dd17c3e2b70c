import ast
import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import paralift as pl

ROOT = Path(__file__).parent.parent
ORDER = ["operators", "problems", "solvers"]


def test_imports_flow_one_way():
    for i, part in enumerate(ORDER):
        for file in (ROOT / "paralift" / part).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and node.level >= 2 and node.module:
                    assert node.module.split(".")[0] not in ORDER[i + 1:], f"{file.name} imports {node.module}"
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not any(n.split(".")[0] in ("odl", "pyproximal", "pylops") or n.startswith("torch.distributed") for n in names), file.name


def test_no_file_is_long():
    for file in (ROOT / "paralift").rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 400, file.name


def test_heavy_libraries_load_lazily():
    heavy = {"odl", "pyproximal", "pylops", "matplotlib", "sklearn", "scipy.sparse", "finufft", "pywt", "h5py", "nibabel", "ismrmrd"}
    code = f"import sys, paralift; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_method_has_a_page():
    methods = [c for c in vars(pl).values() if isinstance(c, type) and issubclass(c, pl.Solver) and c is not pl.Solver]
    index = (ROOT / "doc" / "methods" / "README.md").read_text()
    for cls in methods:
        name = f"{cls.__module__.rpartition('.')[2]}.md"
        page = ROOT / "doc" / "methods" / name
        assert page.exists() and f"[{cls.__name__}]({name})" in index, f"{cls.__name__} needs doc/methods/{name} and a row in doc/methods/README.md"
        assert f"pl.{cls.__name__}(" in page.read_text() and "assert " in page.read_text(), f"doc/methods/{name} runs no {cls.__name__}"


def write_idx(path, array):
    path.write_bytes(gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()))


def test_idx_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PARALIFT_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28)
    for name, array in zip(pl.data._FILES, (images, np.arange(3, dtype=np.uint8)) * 2):
        write_idx(tmp_path / f"{name}.gz", array)
    (x, y), _ = pl.data.mnist()
    assert x.shape == (3, 784) and np.allclose(x.view(3, 28, 28) * 255, images) and y.tolist() == [0, 1, 2]
    (tmp_path / f"{pl.data._FILES[0]}.gz").write_bytes(b"broken")
    with pytest.raises(ValueError, match="damaged"):
        pl.data.mnist()
    (tmp_path / f"{pl.data._FILES[0]}.gz").unlink()
    monkeypatch.setattr(pl.data.urllib.request, "urlopen", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(FileNotFoundError, match="looked for in"):
        pl.data.mnist()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_wrong_download_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.delenv("PARALIFT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    packed = gzip.compress(b"something else")
    monkeypatch.setattr(pl.data.urllib.request, "urlopen", lambda *a, **k: io.BytesIO(packed))
    with pytest.raises(ValueError, match="wrong checksum"):
        getattr(pl.data, name)()
    packed = packed[:-9]
    with pytest.raises(FileNotFoundError, match="download failed"):
        getattr(pl.data, name)()
    assert not any(tmp_path.rglob("*.gz"))


@pytest.mark.skipif("PARALIFT_DATA" not in os.environ, reason="PARALIFT_DATA is not set")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_data(name):
    (x, y), (xt, yt) = getattr(pl.data, name)()
    assert x.shape == (60000, 784) and len(yt) == 10000 and y.bincount().min() > 5000
    for i, checksum in enumerate(pl.data._SOURCES[name][1]):
        file = pl.data._find(name, i)
        assert hashlib.md5(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).hexdigest() == checksum
