"""What is released: one version, sources for Python 3.10, a wheel with the library alone, a source archive with all, an import that costs little."""

import ast
import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import paralift as pl
from paralift.cli import OPTIONAL, REQUIRED

ROOT = Path(__file__).parent.parent
SOURCES = ["paralift", "tests", "doc", "examples", "benchmarks"]


def test_the_version_is_written_once():
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == pl.__version__
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == pl.__version__
    assert 'version = {attr = "paralift.__version__"}' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("folder", SOURCES)
def test_sources_are_python_3_10(folder):
    for file in (ROOT / folder).rglob("*.py"):
        ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=(3, 10))


def test_info_knows_the_dependencies():
    """`paralift info` lists what pyproject.toml names, under the extra that installs it."""
    project = pytest.importorskip("tomllib", reason="tomllib is Python 3.11's").loads((ROOT / "pyproject.toml").read_text())["project"]
    name = lambda requirement: re.match(r"[\w.-]+", requirement)[0]
    assert {name(r) for r in project["dependencies"]} <= {*REQUIRED, "torch"}
    extras = project["optional-dependencies"]
    for package, (extra, _) in OPTIONAL.items():
        assert package in map(name, extras[extra]), f"{package} is not in the extra {extra}"
    assert {name(r) for extra in ("examples", "nufft", "imaging") for r in extras[extra]} == set(OPTIONAL)


def test_pins_cover_every_python():
    """constraints.txt pins a package once, or for Pythons below and from a version on where no release serves all; what the project names is pinned."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        found = re.fullmatch(r'([\w.-]+)==[\w.]+(?:; python_(?:full_)?version (<|>=) "([\d.]+)")?', line)
        assert found, line
        pins.setdefault(found[1].lower(), []).append((found[2], found[3]))
    for name, markers in pins.items():
        assert markers == [(None, None)] or len(markers) == 2 and {mark for mark, _ in markers} == {"<", ">="} and len({cut for _, cut in markers}) == 1, name
    project = pytest.importorskip("tomllib", reason="tomllib is Python 3.11's").loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [r for extra in (project["dependencies"], *project["optional-dependencies"].values()) for r in extra]
    assert {re.match(r"[\w.-]+", r)[0].lower() for r in named} - {"paralift"} <= set(pins)


def test_wheel_and_source_archive(tmp_path):
    """Both are built without network from a copy of the sources, the wheel from the archive, as a release is."""
    missing = [name for name in ("build", "setuptools") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    copy = tmp_path / "copy"
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    run = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", copy], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    wheel, archive = tmp_path / "dist" / f"paralift-{pl.__version__}-py3-none-any.whl", tmp_path / "dist" / f"paralift-{pl.__version__}.tar.gz"

    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "paralift").rglob("*.py")}
    assert {name for name in inside if ".dist-info/" not in name} == modules | {"paralift/py.typed"}
    info = f"paralift-{pl.__version__}.dist-info/"
    assert f"{info}licenses/LICENSE" in inside and "paralift = paralift.cli:main" in zipfile.ZipFile(wheel).read(f"{info}entry_points.txt").decode()
    metadata = zipfile.ZipFile(wheel).read(f"{info}METADATA").decode()
    assert "Requires-Python: >=3.10" in metadata and "Typing :: Typed" in metadata and "# PARALIFT" in metadata and "Description-Content-Type: text/markdown" in metadata
    assert not re.search(r"\]\((?![a-z]+:)", metadata), "the long description has relative links"

    names = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
    wanted = {str(file.relative_to(ROOT)) for name in SOURCES for file in (ROOT / name).rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    wanted = {name for name in wanted if not name.startswith(("doc/api/", "doc/gallery/"))}                  # `make docs` writes them
    assert wanted | {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile", "constraints.txt", "pyproject.toml", "setup.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".ci", "output", "build"))]


def test_links_of_the_long_description(monkeypatch):
    """setup.py sends README's relative links to the sources' address, or puts the paths in their place; code and other links stay."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("setuptools.setup", lambda **options: options)
    absolute = runpy.run_path("setup.py")["absolute"]
    text = "[a page](doc/a.md#b) [doc/c.md](doc/c.md) [d.py](examples/d.py) [away](https://e.org)\n```python\nx = f[0](y)\n```\n"
    code = text[text.index("[away]"):]
    assert absolute(text, None) == "a page (`doc/a.md#b`) `doc/c.md` `examples/d.py` " + code
    assert absolute(text, "https://h/s/") == "[a page](https://h/s/doc/a.md#b) [doc/c.md](https://h/s/doc/c.md) [d.py](https://h/s/examples/d.py) " + code


def test_import_costs_little_beside_torch():
    """`import paralift` adds less than 0.4 of the processor time of `import torch`; both in one process, so that a busy machine slows both."""
    code = "import time; a = time.process_time(); import torch; b = time.process_time(); import paralift; print(b - a, time.process_time() - b)"
    ratios = []
    while len(ratios) < 3 and min(ratios, default=1) >= 0.4:
        torch, own = map(float, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())
        ratios.append(own / torch)
    assert min(ratios) < 0.4, f"import paralift adds {min(ratios):.2f} of what import torch takes"
