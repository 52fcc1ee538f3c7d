"""What a wheel carries."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.architecture.tree import ROOT, modules


def test_a_wheel_holds_every_module_and_the_migrations_inside_the_package(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True
    )
    [wheel] = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    package = {file.relative_to(ROOT).as_posix() for file in modules("dualcert")}
    migrations = {f"dualcert/{file.relative_to(ROOT).as_posix()}" for file in modules("migrations")}
    assert migrations
    assert inside == package | migrations
