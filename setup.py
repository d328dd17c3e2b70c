"""What pyproject.toml cannot say: the long description is README.md without relative links, which lead nowhere on a package index.

`PARALIFT_SOURCE=https://HOST/OWNER/paralift/blob/v0.1.0 make dist` sends them to these sources; without it they become the names of the files, which the source archive holds.
"""

import os
import re
from pathlib import Path

from setuptools import setup


def absolute(text, source):
    """`text` with its relative links under the address `source`, or in place of them the paths as code; code blocks stay."""
    def target(match):
        name, path = match.groups()
        if source:
            return f"[{name}]({source.rstrip('/')}/{path})"
        return f"`{path}`" if path.rpartition("/")[2].startswith(name.rpartition("/")[2]) else f"{name} (`{path}`)"

    parts = re.split(r"(^```.*?^```)", text, flags=re.S | re.M)
    return "".join(part if part.startswith("```") else re.sub(r"\[([^\]]+)\]\((?![a-z]+:|#)([^)\s]+)\)", target, part) for part in parts)


readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
setup(long_description=absolute(readme, os.environ.get("PARALIFT_SOURCE")), long_description_content_type="text/markdown")
