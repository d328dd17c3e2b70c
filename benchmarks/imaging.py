"""All imaging benchmarks in one run: `python benchmarks/imaging.py [--quick]`; each part, imaging_*.py, also runs alone. Peers that are not installed are skipped with a word."""

import subprocess
import sys
from pathlib import Path

for part in sorted(Path(__file__).parent.glob("imaging_*.py")):
    print(f"\n## {part.stem}\n", flush=True)
    subprocess.run([sys.executable, part, *sys.argv[1:]], check=True)
