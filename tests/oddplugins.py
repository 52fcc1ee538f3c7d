"""A distribution whose plugins do what they must not."""

from __future__ import annotations

from pathlib import Path

_DNS = """
from dataclasses import dataclass

from dualcert.errors import DnsUnreachable
from dualcert.ports.options import Options, option

NUMBER = 5


@dataclass(frozen=True, kw_only=True)
class None_(Options):
    summary = "nothing"


class Fine:
    options_class = None_
    capacity = None

    def __init__(self, options):
        pass

    def apply(self, zone, add, remove):
        pass

    def default_resolvers(self):
        return ()


class Optionless:
    pass


class Stumbling(Fine):
    def __init__(self, options):
        raise RuntimeError("stumbled")


class Leaving(Fine):
    def __init__(self, options):
        raise SystemExit(0)


class Knowing(Fine):
    def __init__(self, options):
        raise DnsUnreachable("nobody is there")


@dataclass(frozen=True, kw_only=True)
class AfterOptions(Options):
    def __post_init__(self):
        raise TypeError("after")


class After(Fine):
    options_class = AfterOptions


class Old:
    options_class = None_

    def __init__(self, options):
        pass

    def add_txt(self, name, value):
        pass


@dataclass(frozen=True, kw_only=True)
class Wishes(Options):
    server: dict = option(help="x", default=None)
    either: int | str | None = option(help="x", default=None)


class Wishing(Fine):
    options_class = Wishes


@dataclass(frozen=True, kw_only=True)
class PlainOptions(Options):
    server: str


class Plain(Fine):
    options_class = PlainOptions


class Lost(Fine):
    def default_resolvers(self):
        return "127.0.0.1:53"
"""

_TARGETS = """
from dualcert.ports.options import Options


class Odd:
    options_class = Options

    def __init__(self, options):
        pass

    def deploy(self, placements):
        raise SystemExit(0)

    def read_back(self, pairs):
        return 7

    def purge(self, pair, keep):
        raise SystemExit(0)

    def remove(self, pair):
        raise SystemExit(0)


class Leaving(Odd):
    def check(self):
        raise SystemExit(0)


class Stumbling(Odd):
    def check(self):
        raise KeyError("where")
"""

_KEYS = """
from dualcert.ports.options import Options
from dualcert.testing.fakes_keys import FakeKeyProtector, FakeKeyProtectorOptions


class Nameless(FakeKeyProtector):
    @property
    def key_id(self):
        raise SystemExit(0)


class Numbered(FakeKeyProtector):
    key_id = 7
"""

_MODULES = {
    "odd_dns": _DNS,
    "odd_targets": _TARGETS,
    "odd_keys": _KEYS,
    "odd_boom": 'raise RuntimeError("boom at import")\n',
    "odd_keyboom": '{}["MY_ENV"]\n',
    "odd_exitboom": "raise SystemExit(0)\n",
}

_POINTS = """
[dualcert.dns_providers]
gone = odd_nowhere:Dns
lacking = odd_dns:Nothing
boom = odd_boom:Dns
keyboom = odd_keyboom:Dns
exitboom = odd_exitboom:Dns
number = odd_dns:NUMBER
optionless = odd_dns:Optionless
stumbling = odd_dns:Stumbling
leaving = odd_dns:Leaving
knowing = odd_dns:Knowing
after = odd_dns:After
old = odd_dns:Old
wishing = odd_dns:Wishing
plain = odd_dns:Plain
lost = odd_dns:Lost

[dualcert.deployers]
odd = odd_targets:Odd
leaving-target = odd_targets:Leaving
stumbling-target = odd_targets:Stumbling

[dualcert.key_protectors]
nameless = odd_keys:Nameless
numbered = odd_keys:Numbered
"""


def installed(folder: Path) -> Path:
    """The distribution, as it lies where packages are installed."""
    for name, text in _MODULES.items():
        (folder / f"{name}.py").write_text(text)
    about = folder / "odd-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(_POINTS)
    return folder
