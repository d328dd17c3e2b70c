"""Every relative link of the pages resolves."""

import re
import sys
from pathlib import Path

root = Path(__file__).parent.parent
broken = [f"{page.name}: {link}" for page in [root / "README.md", *root.glob("doc/*.md")]
          for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()) if not (page.parent / link).exists()]
sys.exit("\n".join(broken))
