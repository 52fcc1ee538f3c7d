"""From the word to the backup's certificate on the wire, against ordering a new one; and a promotion by itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.issuance import fresh_name, issue
from bench.lego import Lego
from bench.results import Goal, Result, result
from bench.stage import LabProject, Stage, environ, in_turns, seconds
from dualcert.cli.output import to_json
from dualcert.lab.https import presented_leaf
from dualcert.lab.ports import LOOPBACK, Port
from dualcert.lifecycle import inventory, promotion, views
from dualcert.lifecycle.driver import Scope, run_until
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.promotion import Wish
from dualcert.lifecycle.world import World
from dualcert.model.work import WorkKind

_PAUSE = 0.002
_LONGEST = 60.0


def commands(stage: Stage, rounds: int) -> list[Result]:
    """``dualcert failover`` in a process of its own; lego, which has to ask a CA, and a reload of nginx."""
    lego = Lego(stage, stage.folder / "lego-failover")
    name = fresh_name("failed")
    with stage.project("failover") as project:
        with project.application() as application:
            issue(application.world, name, ("web",))
        lego.obtain(name)
        with _plain_nginx(stage, lego, name) as (server, port):
            mine, theirs = in_turns(
                rounds,
                lambda round_: _failover(project, name, ("beta", "alpha")[round_ % 2]),
                lambda _: _reissue(lego, name, server, port),
            )
    goal = Goal.at_most(mine, 1, "s").and_also(Goal.at_most(mine / theirs, 0.5, "x"))
    against = ("lego ordering anew, nginx reload", theirs)
    return [result("failover, to the first handshake with the backup", mine, "s", against=against, goal=goal)]


def in_process(stage: Stage, rounds: int) -> list[Result]:
    """Promotion until its files are switched, read back and recorded; the look at the target follows, unmeasured."""
    with stage.project("promotion") as project:
        text = project.config.read_text()
        project.config.write_text(
            "\n".join(line for line in text.splitlines() if not line.startswith("endpoint"))
        )
        with project.application() as application:
            world, name = application.world, fresh_name("promoted")
            issue(world, name, ("web",))
            pair = inventory.resolve(world, name)

            def turn(number: int) -> float:
                return _promote(world, pair, ("beta", "alpha")[number % 2])

            in_turns(4, turn)
            (took,) = in_turns(2 * (rounds // 2), turn)
    goal = Goal.at_most(took * 1000, 20, "ms")
    return [result("promotion and deployment to files, in process", took * 1000, "ms", goal=goal)]


def _promote(world: World, pair: Any, to: str) -> float:
    deadline = world.clock.now() + timedelta(seconds=60)
    only = frozenset([pair.id])

    def act() -> None:
        promotion.failover(world, pair, Wish(to=to))
        run_until(Engine(world), Scope(only, (WorkKind.DEPLOYMENT,)), deadline)

    took = seconds(act)
    run_until(Engine(world), Scope(only, promotion.AFTERMATH), deadline)
    view = views.describe(world, pair)
    if view["primary"]["ca"] != to or not views.served(view):
        raise RuntimeError(f"not promoted: {to_json(view)}")
    return took


# --- the two ways to a handshake -------------------------------------------------------------------------


def _failover(project: LabProject, name: str, to: str) -> float:
    port = project.lab.nginx.port
    old = presented_leaf((LOOPBACK, port), name)
    began = time.perf_counter()
    process = _started(project.command("failover", name, "--to", to))
    took = _until_another(port, name, old) - began
    if process.wait(timeout=_LONGEST):
        raise RuntimeError(f"failover ended with {process.returncode}")
    return took


def _reissue(lego: Lego, name: str, server: subprocess.Popen[bytes], port: int) -> float:
    old = presented_leaf((LOOPBACK, port), name)

    def act() -> None:
        lego.obtain(name)
        server.send_signal(signal.SIGHUP)  # nginx reads its configuration and certificates anew

    began = time.perf_counter()
    act()
    return _until_another(port, name, old) - began


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ()
    )


def _until_another(port: int, name: str, old: bytes) -> float:
    """Look until another certificate than ``old`` is there; when that was seen."""
    deadline = time.perf_counter() + _LONGEST
    while time.perf_counter() < deadline:
        with contextlib.suppress(OSError):
            if presented_leaf((LOOPBACK, port), name) != old:
                return time.perf_counter()
        time.sleep(_PAUSE)
    raise RuntimeError(f"{name} is still served with {hashlib.sha256(old).hexdigest()}")


_NGINX = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log "{log}" warn;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path tmp;
    proxy_temp_path tmp;
    fastcgi_temp_path tmp;
    uwsgi_temp_path tmp;
    scgi_temp_path tmp;
    server {{
        listen {address} ssl;
        ssl_certificate "{certificate}";
        ssl_certificate_key "{key}";
        location / {{ return 200; }}
    }}
}}
"""


@contextmanager
def _plain_nginx(stage: Stage, lego: Lego, name: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """nginx as most run it: fixed files, read at start and at a reload."""
    folder = stage.folder / "plain-nginx"
    folder.mkdir()
    certificate, key = lego.certificate(name)
    port = Port.reserve()
    config = _config(folder, str(port), certificate, key)
    port.make_way()
    nginx = str(stage.servers.binaries.nginx)
    server = _started([nginx, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")])
    try:
        _until_another(port.number, name, b"")
        yield server, port.number
    finally:
        server.terminate()
        server.wait(timeout=10)
        port.close()


def _config(folder: Path, address: str, certificate: Path, key: Path) -> Path:
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(
            log=folder / "error.log",
            user="user root;" if os.geteuid() == 0 else "",
            address=address,
            certificate=certificate,
            key=key,
        )
    )
    return config
