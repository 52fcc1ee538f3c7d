"""The plugins of docs/plugins.md, taken out of it and installed as their authors would."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"
MODULES = ("dualcert_hosting", "dualcert_bundles", "dualcert_given")


def example(name: str) -> str:
    [text] = re.findall(rf"<!-- {name} -->\n```\w+\n(.*?)```\n", GUIDE.read_text(), flags=re.DOTALL)
    return str(text)


def write_modules(folder: Path) -> Path:
    """To be imported from there; nobody is told that they are plugins."""
    for module in MODULES:
        (folder / f"{module}.py").write_text(example(module))
    return folder


def install(folder: Path) -> Path:
    """The modules and what says that they are plugins: a folder for the path of another Python."""
    write_modules(folder)
    groups = tomllib.loads(example("pyproject"))["project"]["entry-points"]
    lines = [
        line for group, points in groups.items() for line in (f"[{group}]", *map(" = ".join, points.items()))
    ]
    about = folder / "dualcert_examples-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: dualcert-examples\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
