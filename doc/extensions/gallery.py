"""The gallery: a page an example, with the figures and the text that the script gives when it is run with --quick."""

import ast
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from plain_text import rst

__all__ = ["SECTIONS", "examples", "head", "names_of"]

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {                    # title: patterns of names; what fits none comes last
    "Training": ("train_digits", "train_mnist", "train_*", "sparse_*", "proximal_*", "nondifferentiable", "lift_*"),
    "Potentials and penalties of your own": ("new_*",),
    "Imaging": ("mri_*", "pet_*"),
    "Inversion and source conditions": ("invert_*", "source_*", "optimal_*", "learned_*"),
    "Published experiments": ("reproduce_*",),
    "More": ("*",),
}


def examples():
    return sorted((ROOT / "examples").glob("*.py"))


def head(script):
    """(title, command, [line]) of an example: its docstring is "What it does: `python examples/NAME.py ...`." and the text after it."""
    doc = ast.get_docstring(ast.parse(script.read_text()))
    found = re.match(r"(.*?)[:.] `(python examples/.*?)`\.?\s*(.*)", doc, re.S)
    if not found:
        raise ValueError(f"{script.name}: its docstring needs to begin with what it does, a colon and `python examples/{script.name} ...` in backticks.")
    return " ".join(found[1].split()), found[2], found[3].splitlines()


def names_of(script):
    """The names of the package that an example uses, as in pl.NAME."""
    dotted = {tuple(match.split(".")) for match in re.findall(r"\bpl\.([A-Za-z_][\w.]*)", script.read_text())}
    return sorted({".".join(d[:2]) if d[0].islower() and len(d) > 1 else d[0] for d in dotted})


def run(script, folder):
    """Run an example into `folder`, unless what lies there is from the same script and package. An error ends the build, with what the script said."""
    parts = [script, *sorted((ROOT / "paralift").rglob("*.py"))]
    key, kept = hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest(), folder / "key"
    if kept.exists() and kept.read_text() == key:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "PARALIFT_DATA": empty, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, script, "--quick", "--output", "output"], cwd=empty, env=environment, capture_output=True, text=True)
        figures = sorted(Path(empty, "output").glob("*.png"))
        if done.returncode or not (figures or done.stdout.startswith("skipped")):
            raise RuntimeError(f"examples/{script.name} --quick ended with {done.returncode} and {len(figures)} figures:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        for figure in figures:
            (folder / figure.name).write_bytes(figure.read_bytes())
    (folder / "printed.txt").write_text(done.stdout)
    kept.write_text(key)


def _page(script, folder):
    title, command, text = head(script)
    out = [title, "=" * len(title), "", *rst(text)]
    for figure in sorted(folder.glob("*.png")):
        out.extend([f".. image:: {folder.name}/{figure.name}", f"   :alt: {title}", "   :width: 100%", ""])
    out.extend(["What it prints", "--------------", "", f"Figures and text are those of ``python examples/{script.name} --quick``; in full it is run by", ""])
    out.extend(["::", "", f"    {command}", ""])
    out.extend([f".. literalinclude:: {folder.name}/printed.txt", "   :language: none", "   :class: printed", "", "The script", "----------", ""])
    return "\n".join([*out, f".. literalinclude:: ../../examples/{script.name}", "   :language: python", ""])


def _index(pages):
    out = ["Gallery", "=======", "", "Every script of ``examples/``; figures and text are made with this documentation, by ``--quick`` runs of seconds.", ""]
    left = dict(pages)
    for section, patterns in SECTIONS.items():
        chosen = list(dict.fromkeys(name for pattern in patterns for name in left if fnmatch(name, pattern)))
        if chosen:
            out.extend([section, "-" * len(section), "", ".. container:: gallery", ""])
        for name in chosen:
            title, figure = left.pop(name)
            out.extend(["   .. container:: card", ""] + [f"      .. image:: {name}/{figure}", f"         :target: {name}.html", f"         :alt: {title}", ""] * bool(figure))
            out.extend([f"      :doc:`{title} <{name}>`", ""])
    return "\n".join([*out, ".. toctree::", "   :hidden:", "", *(f"   {name}" for name in pages), ""])


def write(app):
    """Run what has changed, two at a time, and write doc/gallery."""
    place, scripts = Path(app.srcdir) / "gallery", examples()
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda script: run(script, place / script.stem), scripts))
    texts = {script.stem: _page(script, place / script.stem) for script in scripts}
    first = lambda folder: next((f.name for f in sorted(folder.glob("*.png"))), None)
    texts["index"] = _index({script.stem: (head(script)[0], first(place / script.stem)) for script in scripts})
    for name, text in texts.items():
        file = place / f"{name}.rst"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def setup(app):
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
