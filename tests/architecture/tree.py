"""The project's own files, found without git, so that an exported tree can be tested too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# In a second working tree of a repository, .git is a file.
_MADE = {".git", ".venv", ".cache", ".hypothesis", "__pycache__", "dist", "build"}


def files(*below: str) -> Iterator[Path]:
    """Every file that is ours, below the folders named or below all; what tools make is left out."""
    for start in below or (".",):
        for folder, folders, names in os.walk(ROOT / start):
            folders[:] = sorted(name for name in folders if name not in _MADE)
            yield from (Path(folder, one) for one in sorted(names) if one not in _MADE and one[-4:] != ".pyc")


def modules(*below: str) -> Iterator[Path]:
    return (file for file in files(*below) if file.suffix == ".py")


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()
