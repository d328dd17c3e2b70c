"""Docstrings are plain text with formulas and `code`; here they become reStructuredText that shows them as they are written."""

import re

__all__ = ["rst", "sentence"]

INDENT = "    "
NAMES = r"[a-z]\w*(?:, [a-z]\w*)* : "


def rst(lines, link=lambda code: None):
    """The lines of a docstring in reStructuredText: * | _ stay what they are, `code` is set as code, and linked where `link(code)` knows a target; `name : text` become
    definitions, lines that begin with "* " a list, lines further in a literal block, and "Raises", "Returns", "Source" and what follows a colon at a line's end paragraphs
    of their own."""
    out, paragraph, k = [], [], 0

    def flush():
        if paragraph:
            text = " ".join(paragraph)
            out.extend(_definitions(text, link) or ["* " + _inline(text[2:], link) if text.startswith("* ") else _inline(text, link), ""])
            paragraph.clear()

    while k < len(lines):
        line = lines[k]
        if not line.strip():
            flush()
        elif k + 1 < len(lines) and re.fullmatch(r"-{4,}", lines[k + 1].strip()):
            flush()
            out.extend([f".. rubric:: {line.strip()}", ""])
            k += 1
        elif line.startswith(INDENT) and not paragraph:
            k = _literal(lines, k, out)
            continue
        else:
            if re.match(rf"Raises|Returns|Sources?:|\* |{NAMES}", line) or paragraph and paragraph[-1].endswith(":") and line[0] != " ":
                flush()
            paragraph.append(line.strip())
        k += 1
    flush()
    return out


def sentence(doc):
    """The first sentence of a docstring, on one line: to a full stop or colon outside of brackets that is not part of "..."."""
    first, depth = " ".join((doc or "").strip().split("\n\n")[0].split()), 0
    for i, c in enumerate(first):
        depth += (c in "([{") - (c in ")]}")
        if c in ".:" and not depth and first[i + 1:i + 2] == " " and first[i - 1] not in " .":
            return first[:i]
    return first.rstrip(".:")


def _escaped(text):
    return re.sub(r"([\\*|_])", r"\\\1", text)


def _inline(text, link):
    """A paragraph on one line, free of markup but for its code."""
    parts = re.split(r"`([^`]+)`", text)
    for i, part in enumerate(parts):
        target = link(part) if i % 2 else None
        parts[i] = _escaped(part) if i % 2 == 0 else f"\\ :py:obj:`{part} <{target}>`\\ " if target else f"\\ ``{part}``\\ "
    return "\\ " + "".join(parts).strip()                    # so that no first word is taken for a bullet or a number


def _definitions(text, link):
    """`name : text`, and further ones after a full stop; [] where the text is none."""
    if not re.match(NAMES, text):
        return []
    parts = re.split(rf"(?:^|(?<=\. ))({NAMES})", text)[1:]
    return [line for names, words in zip(parts[::2], parts[1::2]) for line in (f"**{_escaped(names[:-3])}**", f"{INDENT}{_inline(words, link)}", "")]


def _literal(lines, k, out):
    """Lines further in, as they are; returns the line after."""
    out.extend(["::", ""])
    while k < len(lines) and (not lines[k].strip() or lines[k].startswith(INDENT)):
        out.append(lines[k])
        k += 1
    out.append("")
    return k
