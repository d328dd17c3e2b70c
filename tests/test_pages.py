"""The code of the pages runs."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("doc/**/*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_code_of_the_pages_runs(page, tmp_path, monkeypatch):
    """The python blocks of a page run top to bottom in one namespace; a traceback shows the page and its line."""
    monkeypatch.chdir(tmp_path)
    text, namespace = (ROOT / page).read_text(), {"__name__": "page"}
    if "\nimport odl\n" in text:
        pytest.importorskip("odl", reason="odl 1.0 needs Python 3.11")
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M):
        exec(compile("\n" * text.count("\n", 0, block.start(1)) + block[1], ROOT / page, "exec"), namespace)


def test_shell_scripts_of_the_pages_parse():
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M):
            run = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
            assert run.returncode == 0, f"{page}: {run.stderr}"
