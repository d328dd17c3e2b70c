"""The documentation site, `make docs`. Pages are this folder's Markdown; extensions/ write the API reference (api/) from the package and the gallery (gallery/) from the examples.

Formulas are plain text, in pages as in docstrings: they read the same in an editor, on a repository's pages and here, and need neither LaTeX nor a network.
"""

import re
import sys
from pathlib import Path

DOC = Path(__file__).resolve().parent
ROOT = DOC.parent
sys.path[:0] = [str(ROOT), str(DOC / "extensions")]

import paralift  # noqa: E402

project, version, release = "PARALIFT", paralift.__version__, paralift.__version__
copyright, author = "PARALIFT developers", "PARALIFT developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "reference", "gallery"]
exclude_patterns = ["extensions"]
myst_heading_anchors = 4
smartquotes = False
highlight_language = "none"              # indented blocks are formulas or commands; python blocks say so
autodoc_typehints = "none"
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(torch|enum)\..*")]
html_theme, html_title = "furo", f"PARALIFT {release}"
html_static_path, html_css_files = ["static"], ["site.css"]
html_copy_source = False


def _links(text, folder):
    """Links of a page in `folder` to files that are other pages here: examples to the gallery, README.md to the front page."""
    def target(match):
        path, mark, anchor = match[1].partition("#")
        file = (folder / path).resolve()
        if file.parent == ROOT / "examples" and file.suffix == ".py":
            path = f"/gallery/{file.stem}.rst"
        elif file == ROOT / "README.md":
            path = "/index.md"
        elif file.is_relative_to(DOC) and path:
            path = f"/{file.relative_to(DOC)}"
        elif file.exists() and path:
            path = "/../" + str(file.relative_to(ROOT))
        return f"]({path}{mark}{anchor})"

    parts = re.split(r"(^```.*?^```)", text, flags=re.S | re.M)
    return "".join(part if part.startswith("```") else re.sub(r"\]\((?![a-z]+:)([^)\s]+)\)", target, part) for part in parts)


def _read(app, docname, source):
    page = DOC / f"{docname}.md"
    if docname == "index":                   # the README, and the toctrees without patterns that no page fits
        lines = [line for line in source[0].splitlines() if "*" not in line or any(DOC.glob(f"{line}.md"))]
        source[0] = _links((ROOT / "README.md").read_text(), ROOT) + "\n" + "\n".join(lines)
    elif page.exists():
        source[0] = _links(source[0], page.parent)
    if docname == "methods/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


def setup(app):
    app.connect("source-read", _read)
