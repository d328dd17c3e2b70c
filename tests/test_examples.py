"""Every example runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("script", sorted(script.name for script in (ROOT / "examples").glob("*.py")))
def test_examples(script, tmp_path):
    """Every example runs with `--quick` (no data but scikit-learn's digits, a few seconds), ends well and leaves figures in `--output`."""
    command = [sys.executable, ROOT / "examples" / script, "--quick", "--output", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "PARALIFT_DATA": str(tmp_path)})
    assert run.returncode == 0, run.stderr
    if run.stdout.startswith("skipped"):                    # it needs a package that is not here
        pytest.skip(run.stdout.strip())
    assert list(tmp_path.glob("*.png")), f"{script} drew nothing into {tmp_path}"
