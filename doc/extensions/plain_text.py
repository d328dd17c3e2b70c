"""Docstrings are plain text with formulas and `code`; here they become reStructuredText that shows them as they are written."""

import re

__all__ = ["rst", "sentence"]

INDENT = "    "


def rst(lines, link=lambda code: None):
    """The lines of a docstring in reStructuredText: * | _ stay what they are, `code` is set as code, and linked where `link(code)` knows a target; "Parameters" become a list of
    definitions, lines that begin with "* " a list, lines further in a literal block, and "Raises", "Returns", "Source" and what follows a colon at a
    line's end paragraphs of their own."""
    out, paragraph, k = [], [], 0

    def flush():
        if paragraph:
            text = " ".join(paragraph)
            out.extend(["* " + _inline(text[2:], link) if text.startswith("* ") else _inline(text, link), ""])
            paragraph.clear()

    while k < len(lines):
        line = lines[k]
        if not line.strip():
            flush()
        elif k + 1 < len(lines) and re.fullmatch(r"-{4,}", lines[k + 1].strip()):
            flush()
            out.extend([f".. rubric:: {line.strip()}", ""])
            k = _definitions(lines, k + 2, out, link)
            continue
        elif line.startswith(INDENT) and not paragraph:
            k = _literal(lines, k, out)
            continue
        else:
            if re.match(r"(Raises|Returns|Sources?:|\* )", line) or paragraph and paragraph[-1].endswith(":"):
                flush()
            paragraph.append(line.strip())
        k += 1
    flush()
    return out


def sentence(doc):
    """The first sentence of a docstring, on one line."""
    first = " ".join((doc or "").strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s", first, maxsplit=1)[0].rstrip(".:")


def _escaped(text):
    return re.sub(r"([\\*|_])", r"\\\1", text)


def _inline(text, link):
    """A paragraph on one line, free of markup but for its code."""
    parts = re.split(r"`([^`]+)`", text)
    for i, part in enumerate(parts):
        target = link(part) if i % 2 else None
        parts[i] = _escaped(part) if i % 2 == 0 else f"\\ :py:obj:`{part} <{target}>`\\ " if target else f"\\ ``{part}``\\ "
    return "\\ " + "".join(parts).strip()                    # so that no first word is taken for a bullet or a number


def _definitions(lines, k, out, link):
    """`name : text` with its continuation further in, up to an empty line; returns the line after."""
    while k < len(lines) and lines[k].strip():
        names, _, text = lines[k].strip().partition(" : ")
        k, words = k + 1, [text]
        while k < len(lines) and lines[k].startswith(INDENT):
            words.append(lines[k].strip())
            k += 1
        out.extend([f"**{_escaped(names)}**", f"{INDENT}{_inline(' '.join(words), link)}", ""])
    return k


def _literal(lines, k, out):
    """Lines further in, as they are; returns the line after."""
    out.extend(["::", ""])
    while k < len(lines) and (not lines[k].strip() or lines[k].startswith(INDENT)):
        out.append(lines[k])
        k += 1
    out.append("")
    return k
