"""A whole incident: from a CA's list to every backup seen on the wire, in the lab's nginx, with certificates that the
lab's CAs have issued."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.issuance import AT_ONCE, fresh_name, issue
from bench.results import Goal, Result, result
from bench.stage import LabProject, Stage, environ, run, seconds
from dualcert.bootstrap import Application
from dualcert.lab.https import presented_leaf
from dualcert.lab.ports import LOOPBACK
from dualcert.lifecycle import inventory
from dualcert.store import certificates, pairs


def incident(stage: Stage, affected: int) -> list[Result]:
    """`incident open`, `plan` and `run`, each a process of its own; afterwards every name is looked at."""
    with stage.project("wire") as project:
        with project.application() as application:
            names = _issued(application, affected)
            serials, wanted = _sides(application, names)
        file = project.config.with_name("serials.txt")
        file.write_text("".join(f"{one}\n" for one in serials))
        ran: list[bytes] = []
        took = seconds(lambda: ran.append(_carry_out(project, str(file))))
        told = json.loads(ran[0])
        if (told["promoted"], told["observed"]) != (affected, affected):
            raise RuntimeError(f"not all were seen: {ran[0].decode()}")
        address = (LOOPBACK, project.lab.nginx.port)
        served = {name: hashlib.sha256(presented_leaf(address, name)).digest() for name in names}
        if served != wanted:
            raise RuntimeError("not every backup is served")
    goal = Goal.at_most(took, 60 * max(1.0, affected / 1000), "s")
    name = f"{affected:,} pairs of an incident, from the file to the wire"
    rate = affected / took
    return [
        result(name, took, "s", goal=goal if affected >= 1000 else None),
        result("  that is", rate, "pairs/s", goal=Goal.at_least(round(rate, 1), round(1000 / 60, 1), "/s")),
    ]


def _issued(application: Application, many: int) -> list[str]:
    names = [fresh_name("affected") for _ in range(many)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number, _ in enumerate(
            threads.map(lambda name: issue(application.world, name, ("web",)), names), 1
        ):
            if number % 100 == 0:
                print(f"{number} of {many} pairs issued", file=sys.stderr)
    return names


def _sides(application: Application, names: Sequence[str]) -> tuple[list[str], dict[str, bytes]]:
    """The serials that serve, and what is to be seen afterwards."""
    serials, wanted = [], {}
    for name in names:
        pair = inventory.resolve(application.world, name)
        with application.world.store.read() as tx:
            state = pairs.state(tx, pair.id)
            serials.append(certificates.get(tx, state.serving or 0).serial.hex())
            wanted[name] = certificates.get(tx, state.standby or 0).sha256
    return serials, wanted


def _carry_out(project: LabProject, serials: str) -> bytes:
    """What `run` says at the end."""
    said = ("--title", "a bench", "--within", "24h", "--ca", "alpha", "--serials", serials)
    opened = json.loads(run(project.command("incident", "open", *said, "--json")).stdout)
    number = str(opened["id"])
    planned = json.loads(run(project.command("incident", "plan", number, "--json")).stdout)
    command = project.command("incident", "run", number, "--plan", planned["plan"], "--json")
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environ(), check=False
    )
    return done.stdout
