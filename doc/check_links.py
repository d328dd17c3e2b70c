"""Every relative link of the pages resolves: the file exists, and so does the heading after #."""

import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def text(page):
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)


def anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text(page), re.M)}


broken = []
for page in [*root.glob("*.md"), *root.glob("doc/**/*.md"), *root.glob("examples/**/*.md")]:
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists():
            broken.append(f"{page.relative_to(root)}: {link} does not exist")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            broken.append(f"{page.relative_to(root)}: {link} has no such heading")
sys.exit("\n".join(broken) or None)
