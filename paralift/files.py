"""Files that are there as a whole or not at all, and optional packages that read them."""

import contextlib
import importlib
import os
import uuid
from pathlib import Path

__all__ = ["replacing", "package"]


@contextlib.contextmanager
def replacing(path):
    """The path of a temporary file beside `path`, of the same ending: at the end of the block it is synced and renamed to `path`; where the block raises, nothing changes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def package(name, who, extra="imaging"):
    """The module `name`; ImportError naming the extra that installs it where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"{who} needs {name}; install it with: pip install 'paralift[{extra}]'") from None
