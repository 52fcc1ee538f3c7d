"""The systemd unit and the cron line of the documentation are true."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT
from tests.daemons import PATIENCE, clock
from tests.labfixture import ProjectLab
from tests.program import Program

UNIT = ROOT / "docs" / "dualcert.service"
GUIDE = (ROOT / "docs" / "daemon.md").read_text()
INSTALLED = "/usr/local/bin/dualcert"
CONFIGURED = "/etc/dualcert/dualcert.toml"
EXPOSURE = 2.0


def settings() -> dict[str, list[str]]:
    """What the unit says, by key; sections have none in common."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        key, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def here(command: str, program: Program) -> list[str]:
    """A command line of the documentation, with this program and this project's configuration."""
    words = shlex.split(command)
    assert words[:3] == [INSTALLED, "--config", CONFIGURED]
    script = Path(sys.executable).with_name("dualcert")
    return [str(script), "--config", str(program.config), *words[3:]]


def test_what_the_unit_starts_is_the_daemon_and_ends_as_the_unit_expects(
    lab: ProjectLab, program: Program
) -> None:
    said = settings()
    [command] = said["ExecStart"]
    with subprocess.Popen(here(command, program), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "started: dualcert" in process.stderr.readline()
            began = clock.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            assert clock.monotonic() - began < int(said["TimeoutStopSec"][0])
        finally:
            process.kill()
    assert said["Type"] == ["notify"]


def test_a_configuration_that_is_wrong_ends_with_the_status_that_the_unit_does_not_restart(
    lab: ProjectLab, program: Program
) -> None:
    program.config.write_text(program.config.read_text() + "\n[defaults.nonsense]\n")
    [command] = settings()["ExecStart"]
    done = subprocess.run(
        here(command, program), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert [str(done.returncode)] == settings()["RestartPreventExitStatus"], done


def test_what_cron_starts_ends_well_and_silently(lab: ProjectLab, program: Program) -> None:
    [line] = [line for line in GUIDE.splitlines() if "run --once" in line and "* * *" in line]
    _, command = line.split("dualcert  ", 1)
    done = subprocess.run(
        here(command, program), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
def test_systemd_finds_nothing_wrong_with_the_unit(lab: ProjectLab, program: Program, tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    [command] = settings()["ExecStart"]
    unit.write_text(UNIT.read_text().replace(command, shlex.join(here(command, program))))
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    assessed = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=yes",
            "--no-pager",
            f"--threshold={EXPOSURE * 10:.0f}",
            str(unit),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert assessed.returncode == 0, assessed.stdout
