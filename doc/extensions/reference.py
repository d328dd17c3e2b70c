"""The API reference: a page a part of the package, each public name once, from the package itself."""

import inspect
import operator
import re
from pathlib import Path

from gallery import examples, names_of
from plain_text import rst, sentence

import paralift as pl

__all__ = ["pages", "public"]

ROOT = Path(__file__).resolve().parents[2]
SPACES = ("", "distributed", "networks", "io", "data", "metrics", "plotting", "testing")
MRI = ("mri", "nufft", "coil_maps", "sampling", "off_resonance", "casorati")
TOMOGRAPHY = ("attenuation", "geometry", "list_mode", "pet", "ray_transform", "scanner", "time_of_flight")
PAGES = {                     # page: (title, what is there, its sections)
    "operators": ("Spaces and operators", "What images and unknowns are (spaces), and maps between them; elements are torch tensors, leading axes are batch.", ("",)),
    "functionals": ("Functionals", "Norms, indicators, entropies and variations, with values, gradients, proxes and conjugates.", ("",)),
    "penalties": ("Potentials, penalties and Bregman distances", "An activation is the prox of a potential; a penalty P(x, z) ties an unknown x to its layer's z.",
                  ("Potentials", "Penalties", "Bregman distances and kernels")),
    "imaging": ("Imaging operators", "MRI, computed and emission tomography; lengths in mm unless a name says otherwise.", ("MRI", "Tomography")),
    "problems": ("Problems", "What a solver sees: blocks, a smooth and a proximable part.", ("",)),
    "solvers": ("Solvers", "A method is an object with solve(problem) -> Result.", ("Methods", "Steps", "Stopping, results, weights")),
    "networks": ("Networks", "paralift.networks: torch modules that are ready to lift, and layers to build them from.", ("",)),
    "distributed": ("Several workers", "paralift.distributed: where a problem is solved, and what it is predicted to cost there.", ("",)),
    "data": ("Data sets", "paralift.data: data sets that are read from PARALIFT_DATA or the cache, or fetched; and phantoms.", ("",)),
    "io": ("Files", "paralift.io: readers and writers of imaging files.", ("",)),
    "metrics": ("Image quality", "paralift.metrics: measures of image quality.", ("",)),
    "plotting": ("Figures", "paralift.plotting: figures of results.", ("",)),
    "testing": ("Checks", "paralift.testing: the mathematics of an operator, a functional, a penalty or a problem of your own, checked by one call.", ("",)),
    "interop": ("Other libraries", "Operators and functionals of ODL, pyproximal, pylops and torch, as ours and back.", ("",)),
}


def public():
    """{name: object} of the package's public names, each object under its shortest one: "PDHG", "io.read_cfl"."""
    found, seen = {}, set()
    for space in SPACES:
        module = getattr(pl, space) if space else pl
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            if not name.startswith("_") and not inspect.ismodule(thing) and id(thing) not in seen:
                seen.add(id(thing))
                found[f"{space}.{name}".lstrip(".")] = thing
    return found


def place(name, thing):
    """(page, section) of a public name: by the part of the package that defines it, operators by what they are."""
    part, _, file = getattr(thing, "__module__", "").removeprefix("paralift.").partition(".")
    kind = thing if inspect.isclass(thing) else object
    if "." in name:
        return name.partition(".")[0], ""
    if part == "operators":
        if file in MRI or file in TOMOGRAPHY:
            return "imaging", "MRI" if file in MRI else "Tomography"
        if file in ("potentials", "smooth_potentials"):
            return "penalties", "Potentials"
        if issubclass(kind, pl.Penalty) or file == "penalty_term":
            return "penalties", "Penalties"
        if file in ("bregman", "kernels"):
            return "penalties", "Bregman distances and kernels"
        return "functionals" if issubclass(kind, (pl.Functional, pl.SeparableSum)) or name == "subsets" else "operators", ""
    if part == "solvers":
        return "solvers", "Methods" if issubclass(kind, pl.Solver) else "Steps" if file == "steps" else "Stopping, results, weights"
    return "networks" if name in ("affine", "chain") else part, ""


def pages():
    """{page: {section: {name: object}}}; an object of a place without a page is an error."""
    found = {page: {section: {} for section in sections} for page, (_, _, sections) in PAGES.items()}
    for name, thing in sorted(public().items(), key=lambda item: item[0].lower()):
        page, section = place(name, thing)
        found[page][section][name] = thing
    return found


def _link(code):
    """The target of `code` in a docstring: a public name, with or without pl. and arguments, or a documented method of one."""
    name = re.sub(r"\(.*\)$", "", code, flags=re.S).removeprefix("pl.")
    owner, _, member = name.rpartition(".")
    method = vars(NAMES[owner]).get(member) if inspect.isclass(NAMES.get(owner)) else None
    return f"paralift.{name}" if name in NAMES or getattr(method, "__doc__", None) else None


NAMES = public()


def _page(title, text, sections, users):
    out = [title, "=" * len(title), "", *rst([text])]
    for section, things in sections.items():
        if section:
            out.extend([section, "-" * len(section), ""])
        out.extend([".. list-table::", "   :widths: 30 70", "   :class: summary", ""])
        for name, thing in things.items():
            summary = "" if isinstance(thing, dict) else " ".join(rst([_title(name, thing) or sentence(thing.__doc__)], _link)).strip()
            out.extend([f"   * - :py:obj:`{name} <paralift.{name}>`", f"     - {summary}"])
        for name, thing in things.items():
            out.extend(["", *_entry(name, thing, users.get(name, ()))])
        out.append("")
    return "\n".join(out)


def _method(thing):
    """The page of a method, methods/NAME, or None."""
    page = f"methods/{getattr(thing, '__module__', '').rpartition('.')[2]}"
    return page if inspect.isclass(thing) and issubclass(thing, pl.Solver) and (ROOT / "doc" / f"{page}.md").exists() else None


def _title(name, thing):
    """What a method's page says in its title, "# PGD: proximal gradient descent", in place of the formula that its docstring begins with; None for all else."""
    title = re.match(r"# (.*?): (.*)", (ROOT / "doc" / f"{_method(thing)}.md").read_text()) if _method(thing) else None
    return title[2] if title and name in re.findall(r"\w+", title[1]) else None


def _entry(name, thing, users):
    out = [f".. auto{'class' if inspect.isclass(thing) else 'function' if callable(thing) else 'data'}:: paralift.{name}"]
    if inspect.isclass(thing):
        out.extend(["   :members:"] + ["   :show-inheritance:"] * bool(_bases(thing)))
    elif not callable(thing):
        out.append("   :no-value:")
    links = [f":doc:`the method's page </{_method(thing)}>`"] if _method(thing) else []
    links.extend(f":doc:`{script} </gallery/{script}>`" for script in users)
    return out + ["", f"   See {', '.join(links)}."] * bool(links)


def write(app):
    """Write the pages that have changed into doc/api."""
    folder, users = Path(app.srcdir) / "api", {}
    folder.mkdir(exist_ok=True)
    for script in examples():
        used = [operator.attrgetter(name)(pl) for name in names_of(script)]
        for name, thing in NAMES.items():
            if any(thing is u for u in used):
                users.setdefault(name, []).append(script.stem)
    texts = {page: _page(*PAGES[page][:2], sections, users) for page, sections in pages().items()}
    rows = "\n".join(f"   {page}" for page in PAGES)
    texts["index"] = f"API reference\n=============\n\n``import paralift as pl``; every public name is on one of these pages.\n\n.. toctree::\n   :maxdepth: 1\n\n{rows}\n"
    for page, text in texts.items():
        file = folder / f"{page}.rst"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def docstring(app, what, name, obj, options, lines):
    """Names and what they mean, in a dictionary or an Enum, are shown as a list, all else by its docstring."""
    names = obj if isinstance(obj, dict) else {name: member.value for name, member in getattr(obj, "__members__", {}).items()}
    lines[:] = rst([*([] if isinstance(obj, dict) else lines), *(f"* `{name}`: {text}" for name, text in names.items())], _link)


def skip(app, what, name, obj, skip, options):
    """Members whose text says nothing: fields of a named tuple, and properties without a docstring, which would get that of their base's value (a bool's)."""
    doc = obj.__doc__
    return True if (doc or "").startswith("Alias for field number") or isinstance(obj, property) and not doc else None


def bases(app, name, obj, options, found):
    found[:] = _bases(obj)


def _bases(thing):
    """The nearest public bases, those of a private one in its stead, or torch's."""
    above = inspect.getmro(thing)[1:]
    ours = {base: name for name, base in NAMES.items() if base in above}
    nearest = [base for base in ours if not any(base in inspect.getmro(other)[1:] for other in ours)]
    return [f":py:class:`paralift.{ours[base]}`" for base in nearest] or [base for base in above if base.__module__.startswith("torch")][:1]


def setup(app):
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-bases", bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
