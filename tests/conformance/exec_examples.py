"""The programs of docs/exec.md, taken out of it to be run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "exec.md"


def example(name: str) -> str:
    [text] = re.findall(rf"<!-- {name} -->\n```python\n(.*?)```\n", GUIDE.read_text(), flags=re.DOTALL)
    return str(text)


def write_program(path: Path, text: str) -> Path:
    """Executable; a Python script runs in this interpreter, whose packages it needs."""
    path.write_text(text.replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1))
    path.chmod(0o755)
    return path
