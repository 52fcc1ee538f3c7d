"""Where the lab's servers are, and whether they are new enough."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dualcert
from dualcert.lab.errors import LabError

SERVERS_VARIABLE = "DUALCERT_SERVERS"
_ASK_SECONDS = 10.0


@dataclass(frozen=True)
class Program:
    """A server that the lab runs, the oldest version that will do, and how to ask it."""

    name: str
    needed: tuple[int, ...]
    version_option: str
    package: str
    unnumbered: str | None = None
    """What a build without a version number says instead; it is then tried as it is."""


# Pebble 2.4 has neither profiles nor ARI, and no -version; Debian's build of 2.10 calls itself "dev".
PEBBLE = Program("pebble", (2, 10), "-version", "pebble of Debian forky", unnumbered="version: dev")
NAMED = Program("named", (9, 18), "-v", "bind9")
NGINX = Program("nginx", (1, 22), "-v", "nginx-light")
HAPROXY = Program("haproxy", (2, 4), "-v", "haproxy")
PROGRAMS = (PEBBLE, NAMED, NGINX, HAPROXY)

_VERSION = re.compile(r"(?:version:?|BIND)\s+(?:nginx/)?v?(\d+)\.(\d+)")


@dataclass(frozen=True)
class Binaries:
    """A usable program each."""

    pebble: Path
    named: Path
    nginx: Path
    haproxy: Path


def find_binaries() -> Binaries:
    """Look in $DUALCERT_SERVERS/bin, the checkout's own cache, PATH; LabError names all that is missing."""
    with ThreadPoolExecutor(len(PROGRAMS)) as pool:
        found = list(pool.map(find_program, PROGRAMS))
    problems = [outcome for outcome in found if isinstance(outcome, str)]
    if problems:
        packages = ", ".join(
            p.package for p, path in zip(PROGRAMS, found, strict=True) if isinstance(path, str)
        )
        raise LabError(
            "; ".join(problems),
            remedy=f"In a checkout, `make setup` fetches them. Elsewhere install {packages}, "
            f"or name a folder with bin/ in ${SERVERS_VARIABLE}.",
        )
    return Binaries(*(path for path in found if isinstance(path, Path)))


def find_program(program: Program) -> Path | str:
    """The first one that is new enough, or what is wrong."""
    too_old: list[str] = []
    for folder in _folders():
        path = shutil.which(program.name, path=str(folder))
        if path is None:
            continue
        said = _version_of(Path(path), program.version_option)
        version = _VERSION.search(said)
        if version and tuple(map(int, version.groups())) >= program.needed:
            return Path(path)
        if program.unnumbered and program.unnumbered in said:
            return Path(path)
        too_old.append(f"{path} ({'.'.join(version.groups()) if version else 'version unknown'})")
    needed = f"{program.name} {'.'.join(map(str, program.needed))} or newer is needed"
    return f"{needed}; found {', '.join(too_old)}" if too_old else f"{needed}; there is none"


def _folders() -> Iterator[Path]:
    chosen = os.environ.get(SERVERS_VARIABLE)
    if chosen:
        yield Path(chosen).absolute() / "bin"
    root = Path(dualcert.__file__).resolve().parent.parent
    if (root / "pyproject.toml").is_file():
        yield root / ".cache" / "servers" / "bin"
    yield from (Path(entry) for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry)
    yield Path("/usr/sbin")


@cache
def _version_of(path: Path, option: str) -> str:
    try:
        answer = subprocess.run(
            [path, option], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be run: {error}"
    return answer.stdout + answer.stderr
