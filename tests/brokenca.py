"""dualcert over a project of which one CA stands behind a proxy that misbehaves on demand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dualcert import bootstrap
from dualcert.acmeclient import AcmeCa, AcmeCaSettings
from dualcert.bootstrap import Application
from dualcert.clock import SystemClock
from dualcert.config import Settings
from dualcert.lab import Lab
from dualcert.lab.pebble import PebbleServer
from dualcert.lifecycle import accounts
from dualcert.lifecycle.world import Lazy
from tests import rawdatabase
from tests.faultproxy import FaultProxy
from tests.program import Program

NEW_ORDER, ORDER, AUTHORIZATION, CHALLENGE = "/order-plz", "/my-order/", "/authZ/", "/chalZ/"
FINALIZE, CERTIFICATE = "/finalize-order/", "/certZ/"

clock = SystemClock()


def pebble_of(lab: Lab, ca: str) -> PebbleServer:
    return {"alpha": lab.alpha, "beta": lab.beta}[ca]


def change_ca(config: Path, ca: str, **values: str) -> None:
    """Write other texts for keys of ``[ca.NAME]`` into a configuration."""
    head, section, rest = config.read_text().partition(f"[ca.{ca}]\n")
    assert section, ca
    lines = rest.splitlines(keepends=True)
    for key, value in values.items():
        number = next(index for index, line in enumerate(lines) if line.startswith(f"{key} = "))
        lines[number] = f"{key} = {json.dumps(value)}\n"
    config.write_text(head + section + "".join(lines))


def say_in(config: Path, section: str, line: str) -> None:
    """Add a line to a section of a configuration."""
    config.write_text(config.read_text().replace(f"[{section}]\n", f"[{section}]\n{line}\n"))


@dataclass(frozen=True)
class Broken:
    """``ca`` is the one behind ``proxy``, ``other`` the one that is well."""

    program: Program
    proxy: FaultProxy
    ca: str
    other: str
    name: str

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return rows(self.program, query, *values)

    def orders(self, ca: str | None = None) -> list[tuple[Any, ...]]:
        """(step, error) of every order at a CA, the one behind the proxy unless another is named."""
        return self.rows("SELECT step, error FROM acme_order WHERE ca = ? ORDER BY id", ca or self.ca)

    def lineage(self, view: Any, ca: str | None = None) -> Any:
        return next(view[role] for role in ("primary", "backup") if view[role]["ca"] == (ca or self.ca))

    def demand_whole(self) -> Any:
        """The pair is whole, every key was used for one order only, and no row is held or left."""
        view = self.program.show(self.name)
        assert view["protection"] == "protected", view
        ordered, different = self.rows("SELECT count(spki), count(DISTINCT spki) FROM acme_order")[0]
        assert ordered == different
        assert self.rows("SELECT kind, reason FROM work") == []
        return view


@contextmanager
def broken(lab: Lab, program: Program, ca: str, folder: Path) -> Iterator[Broken]:
    """Put the proxy before one CA; from there on the configuration leads through it."""
    other = {"alpha": "beta", "beta": "alpha"}[ca]
    with FaultProxy(pebble_of(lab, ca).directory_url, folder=folder) as proxy:
        change_ca(program.config, ca, directory=proxy.directory, ca_bundle=str(proxy.ca_bundle))
        yield Broken(program, proxy, ca, other, lab.domain)


def rows(program: Program, query: str, *values: Any) -> list[tuple[Any, ...]]:
    return rawdatabase.rows(program.config, query, *values)


def change(program: Program, statement: str, *values: Any) -> int:
    """Change the database behind the program's back; how many rows that were."""
    return rawdatabase.change(program.config, statement, *values)


def without_dns(program: Program) -> None:
    """From here on no order is validated: the TSIG key is a wrong one, and the CAs forget what they have validated.

    Of a hundred old authorizations Pebble takes one again even where it is to take none.
    """
    with closing(program.application()) as application:
        world = application.world
        for ca, urls in rows(program, "SELECT ca, authorizations FROM acme_order"):
            client = accounts.authority(world, world.ca(ca))
            assert isinstance(client, AcmeCa)
            for url in urls.split():
                client._post(url, b'{"status": "deactivated"}')
    text = program.config.read_text()
    program.config.write_text(text.replace('tsig_name = "', 'tsig_name = "not-'))


def database_of(program: Program) -> Path:
    """The file of a SQLite one."""
    return program.config.parent / "dualcert.db"


def with_world(change: Callable[[Any], Any]) -> Callable[[Settings], Application]:
    """A ``build`` that wires as always and then replaces the world by what ``change`` makes of it."""

    def build(settings: Settings) -> Application:
        application = bootstrap.build(settings)
        return replace(application, world=change(application.world))

    return build


def with_authority(ca: str, make: Callable[[Any], Any]) -> Callable[[Settings], Application]:
    """A ``build`` whose client of one CA is what ``make`` makes of the real one."""

    def change(world: Any) -> Any:
        binding = world.cas[ca]
        real = binding.authority
        return replace(world, cas={**world.cas, ca: replace(binding, authority=Lazy(lambda: make(real())))})

    return with_world(change)


def hasty(ca: str, seconds: float) -> Callable[[Settings], Application]:
    """A ``build`` whose requests to one CA end after so many seconds, as they do after 30 in earnest."""

    def make(real: AcmeCa) -> AcmeCa:
        settings: AcmeCaSettings = real._settings
        return AcmeCa(replace(settings, timeout=seconds), clock)

    return with_authority(ca, make)
