"""The site, as far as it can be proved without building it (`make docs` builds it)."""

import fnmatch
import inspect
import re
import sys
from pathlib import Path

import pytest

import paralift as pl

ROOT = Path(__file__).parent.parent
DOC = ROOT / "doc"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(DOC / "extensions"))
    import gallery
    import plain_text
    import reference

    yield gallery, plain_text, reference
    for name in ("gallery", "plain_text", "reference"):
        sys.modules.pop(name)


def text(page):
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)


def anchors(page):
    """The anchors that GitHub gives to a page's headings, and MyST after it."""
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text(page), re.M)}


def broken_links(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists():
            yield f"{link} does not exist"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            yield f"{link} has no such heading"


def test_links_of_the_pages_resolve(tmp_path):
    for page in [*ROOT.glob("*.md"), *DOC.glob("**/*.md"), *ROOT.glob("examples/**/*.md")]:
        assert not list(broken_links(page)), page.relative_to(ROOT)
    page = tmp_path / "page.md"
    page.write_text("# A heading, b\n[good](#a-heading-b) [bad](#another) [lost](lost.md) [away](https://example.org)\n```\n[code](x)\n```\n")
    assert list(broken_links(page)) == ["#another has no such heading", "lost.md does not exist"]


def test_every_page_is_in_a_toctree():
    listed = [line for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", (DOC / "index.md").read_text(), re.S | re.M) for line in tree.splitlines() if line and line[0] != ":"]
    for page in DOC.glob("**/*.md"):
        name = str(page.relative_to(DOC).with_suffix(""))
        name = "methods/README" if name.startswith("methods/") else name           # doc/conf.py gives that page a toctree of the others
        hits = [pattern for pattern in listed if fnmatch.fnmatchcase(name, pattern) and pattern.count("/") == name.count("/")]
        assert hits or name == "index", f"doc/{name}.md is in no toctree of doc/index.md"


def test_every_public_name_is_in_the_reference_once(extensions):
    *_, reference = extensions
    spaces = [pl, pl.data, pl.distributed, pl.io, pl.metrics, pl.networks, pl.plotting, pl.testing]
    names = [(getattr(space, name), name) for space in spaces for name in getattr(space, "__all__", dir(space)) if not name.startswith("_")]
    things = {id(thing): name for thing, name in names if not inspect.ismodule(thing)}
    shown = [id(thing) for sections in reference.pages().values() for section in sections.values() for thing in section.values()]
    assert len(shown) == len(set(shown)) and set(shown) == set(things), [things[i] for i in set(things) - set(shown)]
    for name, thing in ((n, t) for sections in reference.pages().values() for section in sections.values() for n, t in section.items()):
        assert isinstance(thing, dict) or thing.__doc__, f"{name} has no docstring"
        found = pl
        for part in name.split("."):
            found = getattr(found, part)
        assert found is thing


def test_every_name_has_its_place(extensions):
    *_, reference = extensions
    pages = reference.pages()
    for name, page, section in (
            ("PDHG", "solvers", "Methods"), ("Tolerance", "solvers", "Stopping, results, weights"), ("ReLU", "penalties", "Potentials"), ("MAC", "penalties", "Penalties"),
            ("L1Norm", "functionals", ""), ("Gradient", "operators", ""), ("MRI", "imaging", "MRI"), ("PET", "imaging", "Tomography"), ("lift", "problems", ""),
            ("affine", "networks", ""), ("Workers", "distributed", ""), ("io.read_cfl", "io", ""), ("from_odl", "interop", "")):
        assert name in pages[page][section], name
    assert all(things for sections in pages.values() for things in sections.values())


def test_every_example_is_in_the_gallery(extensions):
    gallery = extensions[0]
    assert gallery.examples() == EXAMPLES
    index = gallery._index({script.stem: (gallery.head(script)[0], None) for script in EXAMPLES})
    for script in EXAMPLES:
        title, command, _ = gallery.head(script)
        assert command.startswith(f"python examples/{script.name}") and len(title) > 10, script.name
        assert index.count(f"<{script.stem}>") == 1 and index.count(f"\n   {script.stem}\n") == 1, script.name


def test_a_broken_example_ends_the_build(extensions, tmp_path):
    gallery = extensions[0]
    script = tmp_path / "broken.py"
    script.write_text("print('so far')\nraise ValueError('no further')\n")
    with pytest.raises(RuntimeError, match="(?s)so far.*no further"):
        gallery.run(script, tmp_path / "broken")
    script.write_text("print('drew nothing')\n")
    with pytest.raises(RuntimeError, match="0 figures"):
        gallery.run(script, tmp_path / "broken")
    script.write_text("import sys, pathlib\np = pathlib.Path(sys.argv[3]); p.mkdir(); (p / 'x.png').write_bytes(b'1'); print('drawn')\n")
    gallery.run(script, tmp_path / "drawn")
    (tmp_path / "drawn" / "printed.txt").write_text("kept")
    gallery.run(script, tmp_path / "drawn")
    assert (tmp_path / "drawn" / "printed.txt").read_text() == "kept" and (tmp_path / "drawn" / "x.png").exists()


def test_docstrings_keep_their_formulas(extensions):
    _, plain_text, reference = extensions
    doc = ["E = |A x|^2 with A* and `PDHG`, x_1", "and `axis`.", "", "Parameters", "----------", "step, k : a number:", "    or |K|. l : less.", "",
           "Raises ValueError.", "Source: me.", "", "    x+ = K* y"]
    assert plain_text.rst(doc, reference._link) == [
        "\\ E = \\|A x\\|^2 with A\\* and \\ :py:obj:`PDHG <paralift.PDHG>`\\ , x\\_1 and \\ ``axis``\\ .", "", ".. rubric:: Parameters", "",
        "**step, k**", "    \\ a number: or \\|K\\|.", "", "**l**", "    \\ less.", "", "\\ Raises ValueError.", "", "\\ Source: me.", "", "::", "", "    x+ = K* y", ""]
    assert plain_text.sentence("One thing: and\nmore.\n\nText.") == "One thing" and plain_text.sentence("Both 1.5 and 2.") == "Both 1.5 and 2"
    assert plain_text.sentence("f_1 + ... + f_n on {x : A x = b}. More.") == "f_1 + ... + f_n on {x : A x = b}"


def test_signatures_of_methods_are_those_of_their_constructors():
    found = inspect.signature(pl.PDHG).parameters
    assert list(found)[:2] == ["max_iterations", "step"] and found["max_iterations"].default == 1000 and "self" not in inspect.signature(pl.ISGM).parameters
