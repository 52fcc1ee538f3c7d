"""Targets that cannot be written, do not reload, or serve something else: the old certificate stays in service."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dualcert import bootstrap
from dualcert.bootstrap import Application
from dualcert.clock import SystemClock
from dualcert.config import Settings
from dualcert.errors import DeployError
from dualcert.lab.https import fetch
from dualcert.lab.pebble import PebbleServer
from dualcert.lifecycle.world import Lazy
from dualcert.ports.deploy import Deployer, Held, Placement, Version
from dualcert.ports.options import Options
from tests.labfixture import ProjectLab
from tests.program import Program

_clock = SystemClock()
Build = Callable[[Settings], Application]


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return lab.domain


def served(lab: ProjectLab) -> str:
    return hashlib.sha256(lab.handshake(lab.domain)).hexdigest()


def status_at(ca: PebbleServer, serial: str) -> str:
    """What the CA itself says of a certificate."""
    _, body = fetch(f"{ca.management_url}/cert-status-by-serial/{serial}", ca.api_ca_pem)
    return str(json.loads(body)["Status"])


def sha256(pair: Any, role: str) -> str:
    return str(pair[role]["certificate"]["sha256"])


# --- what cannot be written ------------------------------------------------------------------------------


def _mounted(*arguments: str) -> bool:
    return (
        os.geteuid() == 0
        and subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    )


@contextlib.contextmanager
def _unmounting(directory: Path) -> Iterator[None]:
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


class _Capabilities(ctypes.Structure):
    _fields_: ClassVar = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inherited", ctypes.c_uint32),
    ]


@contextlib.contextmanager
def _bound_by_permissions() -> Iterator[None]:
    """For root: permission bits bind this thread and those that it starts (CAP_DAC_OVERRIDE is laid aside)."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (_Capabilities * 2)()
    assert libc.capget(head, held) == 0
    before = held[0].effective
    held[0].effective = before & ~(1 << 1)
    assert libc.capset(head, held) == 0
    try:
        yield
    finally:
        held[0].effective = before
        assert libc.capset(head, held) == 0


@contextlib.contextmanager
def read_only_by_bits(directory: Path) -> Iterator[Build | None]:
    folders = [directory, *(path for path in directory.rglob("*") if path.is_dir() and not path.is_symlink())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with _bound_by_permissions():
            yield None
    finally:
        for folder in folders:
            folder.chmod(0o755)


@contextlib.contextmanager
def read_only_by_mount(directory: Path) -> Iterator[Build | None]:
    """Where mounting is not allowed, the permission bits do."""
    if not _mounted("--bind", str(directory), str(directory)):
        with read_only_by_bits(directory) as build:
            yield build
        return
    with _unmounting(directory):
        subprocess.run(["mount", "-o", "remount,ro,bind", directory], check=True)
        yield None


class FullDisk:
    """A deployer on a disk that holds no file of more than 100 bytes."""

    options_class: ClassVar[type[Options]] = Options

    def __init__(self, inner: Deployer) -> None:
        self._inner = inner

    def deploy(self, placements: Sequence[Placement]) -> Mapping[str, DeployError | None]:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            return self._inner.deploy(placements)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def read_back(self, pairs: Sequence[str]) -> Mapping[str, Held | None]:
        return self._inner.read_back(pairs)

    def purge(self, pair: str, keep: Version) -> None:
        self._inner.purge(pair, keep)

    def remove(self, pair: str) -> None:
        self._inner.remove(pair)


@contextlib.contextmanager
def file_size_limited(_directory: Path) -> Iterator[Build | None]:
    def build(settings: Settings) -> Application:
        application = bootstrap.build(settings)
        target = application.world.target("web")
        full = replace(target, deployer=Lazy(lambda: FullDisk(target.deployer())))
        return replace(application, world=replace(application.world, targets={"web": full}))

    yield build


@contextlib.contextmanager
def disk_full(directory: Path) -> Iterator[Build | None]:
    """Fill the megabyte that is mounted there; where mounting is not allowed, a limit on file sizes does."""
    if not directory.is_mount():
        with file_size_limited(directory) as build:
            yield build
        return
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield None
    finally:
        filler.unlink()


@pytest.fixture
def small_disk(lab: ProjectLab) -> Iterator[Path]:
    """The target's folder, a file system of one megabyte where that can be had."""
    if not _mounted("-t", "tmpfs", "-o", "size=1m", "none", str(lab.live)):
        yield lab.live
        return
    with _unmounting(lab.live):
        yield lab.live


def failover_is_stopped_and_mended(
    lab: ProjectLab,
    program: Program,
    obstacle: AbstractContextManager[Build | None],
    *words: str,
    timeout: str = "20s",
) -> None:
    """A failover meets a target that does not take the certificate; the same command afterwards finishes it."""
    name = lab.domain
    before = program.done("issue", name, "--json").json
    old = before["primary"]["certificate"]

    with obstacle as build:
        began = _clock.monotonic()
        result = program.run("failover", name, "--revoke", "--json", "--timeout", timeout, build=build)
        took = _clock.monotonic() - began

    assert result.status == 3, result
    assert took < 15
    shown = result.json
    assert (shown["epoch"], shown["to"]["ca"], shown["revoked"]) == (1, "beta", False)
    assert shown["targets"] == [{"target": "web", "verified": False, "seconds": None}]
    assert any(word in result.err for word in words), result.err
    assert "Next try at 20" in result.err
    assert f"to try sooner: dualcert failover {name}" in result.err
    assert served(lab) == old["sha256"]
    assert status_at(lab.alpha, old["serial"]) == "Valid"
    state = program.show(name)
    assert (state["primary"]["ca"], state["epoch"]) == ("beta", 1)
    assert state["protection"] == "unprotected"
    assert any(word in state["targets"][0]["problem"] for word in words), state["targets"]
    assert state["targets"][0]["observed_sha256"] == old["sha256"]

    mended = program.done("failover", name, "--revoke", "--json").json

    assert (mended["epoch"], mended["revoked"], mended["targets"][0]["verified"]) == (1, True, "wire")
    assert served(lab) == sha256(before, "backup")
    assert status_at(lab.alpha, old["serial"]) == "Revoked"
    assert program.show(name)["targets"][0]["problem"] is None


def test_a_directory_that_permission_bits_close(lab: ProjectLab, program: Program) -> None:
    failover_is_stopped_and_mended(
        lab, program, read_only_by_bits(lab.live), f"cannot write {lab.live}", f"cannot switch {lab.live}"
    )


def test_a_read_only_file_system(lab: ProjectLab, program: Program) -> None:
    failover_is_stopped_and_mended(lab, program, read_only_by_mount(lab.live), f"cannot write {lab.live}")


def test_a_full_disk(lab: ProjectLab, program: Program, small_disk: Path) -> None:
    failover_is_stopped_and_mended(
        lab, program, disk_full(small_disk), "No space left on device", "File too large"
    )


def test_a_limit_on_the_size_of_files(lab: ProjectLab, program: Program) -> None:
    failover_is_stopped_and_mended(lab, program, file_size_limited(lab.live), "File too large")


def test_what_was_written_in_part_is_not_left_behind(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    with file_size_limited(lab.live) as build:
        assert program.run("failover", name, "--timeout", "20s", build=build).status == 3
    versions = lab.live / ".versions" / name

    assert len([path for path in versions.iterdir() if path.is_dir()]) == 1
    program.done("failover", name)
    assert len([path for path in versions.iterdir() if path.is_dir()]) == 1  # the replaced key has left


# --- a reload that does not work -------------------------------------------------------------------------

_RELOAD = """\
#!/bin/sh
# What a server's reload does: from now on it serves what stands in the folder.
cd "$(dirname "$0")"
if [ -e broken ]; then echo "the configuration has an error in line 7"; exit 1; fi
if [ -e hanging ]; then exec sleep 600; fi
if [ -e deaf ]; then exit 0; fi
for pair in store/*; do
    rm -rf "live/$(basename "$pair")" && cp -rL "$pair" live/
done
"""


@pytest.fixture
def reloading(lab: ProjectLab, program: Program) -> Callable[[str], AbstractContextManager[Build | None]]:
    """The lab's nginx, made to serve new files only after a reload; and how to spoil the reload for a while."""
    script = lab.directory / "reload"
    script.write_text(_RELOAD)
    script.chmod(0o755)
    text, count = re.subn(
        r'(?m)^directory = "live"$',
        f'directory = "store"\nreload = ["{script}"]\nreload_timeout = 0.5',
        program.config.read_text(),
    )
    assert count == 1
    program.config.write_text(text)

    @contextlib.contextmanager
    def spoiled(mood: str) -> Iterator[Build | None]:
        (lab.directory / mood).touch()
        try:
            yield None
        finally:
            (lab.directory / mood).unlink()

    return spoiled


Reloading = Callable[[str], AbstractContextManager[Build | None]]


def test_a_reload_that_fails(lab: ProjectLab, program: Program, reloading: Reloading) -> None:
    failover_is_stopped_and_mended(
        lab,
        program,
        reloading("broken"),
        "ended with exit status 1, having said:\nthe configuration has an error",
    )


def test_a_reload_that_hangs(lab: ProjectLab, program: Program, reloading: Reloading) -> None:
    failover_is_stopped_and_mended(lab, program, reloading("hanging"), "did not end within 0.5 seconds")


def test_a_reload_that_changes_nothing(lab: ProjectLab, program: Program, reloading: Reloading) -> None:
    """It says that all is well; only the handshake tells."""
    name = lab.domain
    before = program.done("issue", name, "--json").json
    with reloading("deaf"):
        result = program.run("failover", name, "--revoke", "--json", "--timeout", "1s")

    assert (result.status, result.json["revoked"]) == (3, False)
    assert result.json["targets"][0]["verified"] is False
    assert f"serves another certificate for {name}" in result.err
    assert f"serves another certificate for {name}" in program.show(name)["targets"][0]["problem"]
    assert served(lab) == sha256(before, "primary")

    subprocess.run([lab.directory / "reload"], check=True)
    assert program.done("failover", name, "--revoke", "--json").json["revoked"] is True


def test_a_renewal_that_does_not_get_to_its_target_is_made_up_for(
    lab: ProjectLab, program: Program, reloading: Reloading
) -> None:
    name = lab.domain
    before = program.done("issue", name, "--json").json
    with reloading("broken"):
        result = program.run("renew", name, "--force", "--json")

    assert result.status == 3, result
    assert "exit status 1" in result.err
    assert served(lab) == sha256(before, "primary")
    assert program.show(name)["protection"] == "unprotected"
    scheduled = program.run("renew", "--due", "--timeout", "1m", "--json")
    assert scheduled.status == 1, "nothing got on"
    assert [one["step"] for one in scheduled.json["left"]] == ["deployment"], (
        "it is not hurried before its time"
    )

    again = program.show(name)["targets"][0]["next_try"]
    said = program.run("renew", "--due", "--timeout", "1m").out
    assert f"Next try at {again}; to try sooner: dualcert renew {name}\n" in said

    program.done("renew", name)

    after = program.show(name)
    assert after["protection"] == "protected"
    assert served(lab) == sha256(after, "primary") != sha256(before, "primary")


class Stumbling(FullDisk):
    """A deployer with a mistake in it."""

    def deploy(self, placements: Sequence[Placement]) -> Mapping[str, DeployError | None]:
        raise RuntimeError("this was\nnot foreseen")


def stumbling_at(name: str) -> Build:
    def build(settings: Settings) -> Application:
        application = bootstrap.build(settings)
        world, target = application.world, application.world.target(name)
        broken = replace(target, deployer=Lazy(lambda: Stumbling(target.deployer())))
        return replace(application, world=replace(world, targets={**world.targets, name: broken}))

    return build


def test_a_target_whose_plugin_fails_unforeseen_keeps_no_other_from_the_failover(
    lab: ProjectLab, program: Program, name: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    text = program.config.read_text()
    program.config.write_text(f'{text}\n[target.other]\ndeployer = "files"\ndirectory = "{other}"\n')
    before = program.done("issue", name, "--target", "web", "--target", "other", "--json").json

    result = program.run("failover", name, "--json", "--timeout", "20s", build=stumbling_at("other"))

    assert result.status == 3, result
    assert result.json["epoch"] == 1
    assert {one["target"]: one["verified"] for one in result.json["targets"]} == {
        "web": "wire",
        "other": False,
    }
    assert served(lab) == sha256(before, "backup")
    where = f"{name}, target other: deployment is not finished"
    assert (
        f"{where}: the plugin of [target.other] failed unforeseen: RuntimeError: this was not" in result.err
    )
    assert "internal error" not in result.err

    finished = program.done("failover", name, "--json").json
    assert {one["verified"] for one in finished["targets"]} == {"wire", "stored"}


def test_a_first_certificate_that_nobody_serves_is_no_success(
    lab: ProjectLab, program: Program, reloading: Reloading, name: str
) -> None:
    with reloading("broken"):
        result = program.run("issue", name, "--json")

    assert result.status == 3, result
    assert result.json["protection"] == "unprotected"
    assert "exit status 1" in result.json["targets"][0]["problem"]
    again = result.json["targets"][0]["next_try"]
    assert f"Next try at {again}; to try sooner: dualcert renew {name}" in result.err
    assert f"next try at {again}" in program.done("show", name).out
    assert program.done("issue", name, "--json").json["protection"] == "protected"


# --- an endpoint that serves something else --------------------------------------------------------------


def test_revocation_waits_for_what_was_not_seen_unless_told_otherwise(
    lab: ProjectLab, program: Program, name: str
) -> None:
    old = program.done("issue", name, "--json").json["primary"]["certificate"]
    lab.nginx.stop()
    try:
        result = program.run("failover", name, "--revoke", "--json", "--timeout", "1s")

        assert (result.status, result.json["epoch"], result.json["revoked"]) == (3, 1, False)
        assert result.json["targets"][0]["verified"] is False
        assert "no handshake with" in result.err
        assert "web was not yet seen with the new certificate" in result.err
        assert "no handshake with" in program.show(name)["targets"][0]["problem"]
        assert status_at(lab.alpha, old["serial"]) == "Valid"

        insisted = program.run("failover", name, "--revoke-unverified", "--json", "--timeout", "1s")

        assert (insisted.status, insisted.json["epoch"], insisted.json["revoked"]) == (3, 1, True)
        assert status_at(lab.alpha, old["serial"]) == "Revoked"
    finally:
        lab.nginx.start()
    finished = program.done("failover", name, "--json").json
    assert (finished["epoch"], finished["targets"][0]["verified"]) == (1, "wire")


def test_revocation_waits_for_what_was_not_seen_until_its_time_whatever_is_said_again(
    lab: ProjectLab, program: Program, name: str
) -> None:
    old = program.done("issue", name, "--json").json["primary"]["certificate"]
    lab.nginx.stop()
    try:
        first = program.run("failover", name, "--revoke", "--timeout", "1s")
        again = program.run("failover", name, "--revoke", "--timeout", "1s")
        times = [re.findall(r"it is revoked at (.*) UTC at the latest", one.err) for one in (first, again)]
        assert times[0] == times[1] != []
        assert status_at(lab.alpha, old["serial"]) == "Valid"

        sooner = program.run("failover", name, "--revoke-by", "1s", "--json", "--timeout", "5s")

        assert (sooner.status, sooner.json["revoked"]) == (3, True), sooner
        assert sooner.json["targets"][0]["verified"] is False
        assert status_at(lab.alpha, old["serial"]) == "Revoked"
    finally:
        lab.nginx.start()


def test_a_failover_that_only_goes_on_with_another_says_so_and_how_to_leave(
    lab: ProjectLab, program: Program, name: str
) -> None:
    program.done("issue", name)
    lab.nginx.stop()
    try:
        assert "promoted:" not in program.run("failover", name, "--timeout", "1s").err
        dry = program.done("failover", name, "--dry-run")
        again = program.run("failover", name, "--timeout", "1s")
    finally:
        lab.nginx.start()
    assert f"{name}: beta serves already; what is unfinished would be finished" in dry.out
    assert "would move" not in dry.out
    for said, nothing in ((dry.err, "nothing would be promoted"), (again.err, "nothing was promoted")):
        assert f"{name}: {nothing}: the failover from alpha to beta is not finished" in said
        assert f"dualcert failover {name} --to alpha" in said
    assert program.show(name)["epoch"] == 1
    program.done("failover", name, "--to", "alpha")
    assert program.show(name)["epoch"] == 2


@pytest.mark.parametrize("text", ["soon", "2020-01-01", "2020-01-01T00:00Z", "0", "0s"])
def test_a_time_that_is_none_or_over_is_refused_before_anything_moves(
    program: Program, name: str, text: str
) -> None:
    for dry in ((), ("--dry-run",)):
        refused = program.run("failover", name, "--revoke-by", text, *dry)
        assert refused.status == 2
        assert f"--revoke-by {text}: " in refused.err
        assert "like 24h" in refused.err


@pytest.mark.long
def test_a_silent_endpoint_is_looked_at_for_a_while_and_no_longer(
    lab: ProjectLab, program: Program, name: str
) -> None:
    program.done("issue", name)
    lab.nginx.stop()
    began = _clock.monotonic()
    result = program.run("failover", name, "--json")
    took = _clock.monotonic() - began
    lab.nginx.start()

    assert result.status == 3
    assert took < 30
    assert "no handshake with" in program.show(name)["targets"][0]["problem"]
