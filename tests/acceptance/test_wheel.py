"""The wheel, installed by plain pip into an empty environment, does what a stranger needs first.

One Python is tried in the ordinary suite, the one that runs the tests; the others that the machine has, by
`make test-long`.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dualcert import errors
from tests.architecture.tree import ROOT, files
from tests.labfixture import ProjectLab
from tests.program import Program, Result

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNNING = f"3.{sys.version_info.minor}"
VERSIONS = sorted({"3.11", "3.12", "3.13", RUNNING})
PATIENCE = 300
_MEANT_FOR_ANOTHER = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}


def pythons(version: str) -> Iterator[Path]:
    """Interpreters of this version: the one that the tests' own environment was made from, on PATH, pyenv's, uv's."""
    if version == RUNNING:
        yield Path(getattr(sys, "_base_executable", sys.executable))
    name = f"python{version}"
    if (found := shutil.which(name)) is not None:
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", "~/.local/share/uv/python")).expanduser()
    yield from sorted([*pyenv.glob(f"{version}.*/bin/{name}"), *uv.glob(f"cpython-{version}.*/bin/{name}")])


def usable(python: Path, version: str) -> bool:
    """Whether it runs (pyenv leaves shims that do not) and has pip."""
    code = "import sys, venv, pip; print(*sys.version_info[:2], sep='.')"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == version


def pip(python: Path, *arguments: str) -> None:
    """pip as the caller has set it up, with the suite's own cache."""
    environment = {name: value for name, value in os.environ.items() if name not in _MEANT_FOR_ANOTHER}
    environment = {"PIP_CACHE_DIR": str(ROOT / ".cache" / "pip"), **environment}
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done


@dataclass(frozen=True)
class Installed:
    """An environment that has nothing but the wheel and what that asks for."""

    environment: Path

    def run(self, folder: Path, command: Sequence[str | Path]) -> Result:
        """Out of the checkout's sight: another folder, and nothing of this process's environment."""
        done = subprocess.run(
            command,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def dualcert(self, folder: Path, *arguments: str) -> Result:
        return self.run(folder, [self.environment / "bin" / "dualcert", *arguments])

    def done(self, folder: Path, *arguments: str) -> Result:
        result = self.dualcert(folder, *arguments)
        assert result.status == 0, (arguments, result)
        return result


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture
def versions_of_the_lock(tmp_path: Path) -> Path:
    """What pip is to choose: a release of somebody else's does not break this project's tests."""
    pins = re.findall(r"^(\S+==.*?) \\$", (ROOT / "requirements" / "dev.lock").read_text(), re.MULTILINE)
    file = tmp_path / "constraints.txt"
    file.write_text("\n".join(pins) + "\n")
    return file


def test_the_wheel_holds_the_package_and_nothing_of_its_workshop(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = [name for name in archive.namelist() if ".dist-info/" not in name]
    package = {file.relative_to(ROOT).as_posix() for file in files("dualcert")}
    migrations = {f"dualcert/{file.relative_to(ROOT).as_posix()}" for file in files("migrations")}
    assert set(names) == package | migrations
    assert "dualcert/py.typed" in names
    assert any(name.startswith("dualcert/migrations/versions/") for name in names)
    [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    said = email.message_from_bytes(archive.read(metadata))
    assert (said["Name"], said["Version"]) == ("dualcert", PROJECT["version"])
    assert said["Requires-Python"] == PROJECT["requires-python"]
    assert set(said.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert said.get_payload() == (ROOT / "README.md").read_text()


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize(
    "version",
    [pytest.param(one, marks=() if one == RUNNING else pytest.mark.long) for one in VERSIONS],
)
def test_an_empty_environment_gets_a_program_that_works(
    version: str,
    wheel: Path,
    versions_of_the_lock: Path,
    tmp_path: Path,
    lab: ProjectLab,
    bare_postgres: str,
) -> None:
    python = next((one for one in pythons(version) if usable(one, version)), None)
    if python is None:
        assert version != RUNNING, "the Python that runs the tests has no pip"
        pytest.skip(f"no Python {version} with pip is here")
    environment = tmp_path / "environment"
    # Debian has pip and venv apart from what puts the one into the other; pip can do without.
    subprocess.run([python, "-m", "venv", "--without-pip", environment], check=True)
    # Not compiled beforehand: a third of what is installed is never imported here.
    inside = ["--python", str(environment / "bin" / "python"), "install", "--quiet", "--no-compile"]
    inside += ["--constraint", str(versions_of_the_lock)]
    pip(python, *inside, str(wheel))
    installed = Installed(environment)

    what_was_installed_is_what_runs(installed, tmp_path)
    the_first_minutes_of_a_stranger(installed, tmp_path)
    a_pair(installed, lab)
    it_fails_over_and_goes(installed, lab)
    without_its_driver_postgresql_is_refused(installed, lab, bare_postgres)

    pip(python, *inside, "dualcert[postgresql]")
    a_database_is_upgraded(installed, lab, bare_postgres)
    a_pair(installed, lab)


def what_was_installed_is_what_runs(installed: Installed, folder: Path) -> None:
    assert installed.done(folder, "--version").out == f"dualcert {PROJECT['version']}\n"
    code = "import dualcert, dualcert.migrations as m; print(dualcert.__file__, *m.__path__, sep='\\n')"
    found = installed.run(folder, [installed.environment / "bin" / "python", "-c", code])
    assert [ROOT not in Path(line).parents for line in found.out.splitlines()] == [True, True], found
    assert all(line.startswith(str(installed.environment)) for line in found.out.splitlines())
    completed = installed.run(
        folder,
        ["/usr/bin/env", "_DUALCERT_COMPLETE=bash_source", installed.environment / "bin" / "dualcert"],
    )
    assert "complete -o nosort -F _dualcert_completion dualcert" in completed.out


def the_first_minutes_of_a_stranger(installed: Installed, folder: Path) -> None:
    """`init` writes a file that is to be edited; until it is, `check` names each line, and nothing is made."""
    empty = folder / "empty"
    empty.mkdir()
    assert "made   configuration" in installed.done(empty, "init").out
    assert [path.name for path in empty.iterdir()] == ["dualcert.toml"]

    unedited = installed.dualcert(empty, "check", "--json")
    assert (unedited.status, unedited.err.count("\n")) == (errors.EXIT_USAGE, 1), unedited
    problems = [json.loads(line)["subject"] for line in unedited.out.splitlines()]
    assert any("ca.letsencrypt.terms_agreed" in one for one in problems), problems
    assert installed.dualcert(empty, "db", "current").status == errors.EXIT_USAGE
    assert [path.name for path in empty.iterdir()] == ["dualcert.toml"]


def a_pair(installed: Installed, lab: ProjectLab) -> None:
    """`dualcert init && dualcert check && dualcert db current`, and then what all of it is for."""
    folder = lab.config_path.parent
    installed.done(folder, "init")
    looks = installed.done(folder, "check", "--json")
    assert all(json.loads(line)["ok"] for line in looks.out.splitlines()), looks
    current = json.loads(installed.done(folder, "db", "current", "--json").out)
    assert current["found"] == current["expected"]

    issued = json.loads(installed.done(folder, "issue", lab.domain, "--json").out)
    assert issued["protection"] == "protected"
    assert issued["targets"][0]["observed"] == "wire"


def it_fails_over_and_goes(installed: Installed, lab: ProjectLab) -> None:
    folder = lab.config_path.parent
    failed_over = json.loads(installed.done(folder, "failover", lab.domain, "--json").out)
    assert failed_over["targets"][0]["verified"] == "wire"
    installed.done(folder, "remove", lab.domain, "--yes")


def without_its_driver_postgresql_is_refused(installed: Installed, lab: ProjectLab, url: str) -> None:
    Program(lab.config_path).move_to(url)
    refused = installed.dualcert(lab.config_path.parent, "db", "current")
    assert refused.status == errors.EXIT_USAGE, refused
    assert "dualcert[postgresql]" in refused.err


def a_database_is_upgraded(installed: Installed, lab: ProjectLab, url: str) -> None:
    """From nothing, by the migrations that came with the wheel."""
    folder = lab.config_path.parent
    Program(lab.config_path).move_to(url)
    before = installed.dualcert(folder, "db", "current", "--json")
    assert (before.status, json.loads(before.out)["found"]) == (errors.EXIT_FAILED, None)
    upgraded = json.loads(installed.done(folder, "db", "upgrade", "--json").out)
    current = json.loads(installed.done(folder, "db", "current", "--json").out)
    assert upgraded["after"] == current["found"] == current["expected"]


def test_a_python_that_is_none_is_not_used(tmp_path: Path) -> None:
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert not usable(shim, "3.12")
    assert not usable(next(pythons(RUNNING)), "3.1")
    assert usable(next(pythons(RUNNING)), RUNNING)
