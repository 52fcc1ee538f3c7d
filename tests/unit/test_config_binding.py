"""A plugin's table becomes the plugin's own options, or everything wrong with it is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from dualcert.config.binding import bind
from dualcert.config.problems import InvalidConfiguration
from dualcert.config.settings import PluginTable
from dualcert.errors import ConfigurationError
from dualcert.ports.options import Options, Secret, option


@dataclass(frozen=True, kw_only=True)
class Sample(Options):
    server: str = option(help="the server's address")
    port: int = option(help="its port", default=53)
    weight: float = option(help="any number", default=1.0)
    quiet: bool = option(help="say less", default=False)
    path: Path | None = option(help="a file", default=None)
    secret: Secret | None = option(help="a secret", default=None)
    words: tuple[str, ...] = option(help="some words", default=())
    algorithm: Literal["one", "two"] = option(help="which", default="one")
    wait: timedelta = option(help="how long", default=timedelta(seconds=1))
    seconds: float = field(default=1.0, metadata={"help": "how long", "duration": True})

    def __post_init__(self) -> None:
        if self.server == "nowhere":
            raise ValueError("server: nobody is there")


def table(folder: Path, raw: dict[str, Any]) -> PluginTable:
    lines = {key: number for number, key in enumerate(raw, start=11)}
    return PluginTable("dns", "corp", "dns.corp", "sample", raw, folder / "dualcert.toml", 10, lines)


def refused(folder: Path, raw: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidConfiguration) as caught:
        bind(Sample, table(folder, raw))
    assert str(folder / "dualcert.toml") in str(caught.value)
    return {
        problem.key: f"{problem.line} {problem.reason} | {problem.remedy}"
        for problem in caught.value.problems
    }


def test_every_type_is_read(tmp_path: Path) -> None:
    options = bind(
        Sample,
        table(
            tmp_path,
            {
                "server": "ns.example",
                "port": 5353,
                "weight": 2,
                "quiet": True,
                "path": "sub/file",
                "secret": "s3",
                "words": ["a", ""],
                "algorithm": "two",
                "wait": "30s",
                "seconds": "2m",
            },
        ),
    )
    assert options == Sample(
        server="ns.example",
        port=5353,
        weight=2.0,
        quiet=True,
        path=tmp_path / "sub/file",
        secret=Secret("s3"),
        words=("a", ""),
        algorithm="two",
        wait=timedelta(seconds=30),
        seconds=120.0,
    )


def test_what_is_unsaid_keeps_its_default(tmp_path: Path) -> None:
    assert bind(Sample, table(tmp_path, {"server": "x"})) == Sample(server="x")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("server", 1, "must be a text"),
        ("server", " ", "not empty"),
        ("port", "53", "must be a whole number"),
        ("port", True, "must be a whole number"),
        ("weight", "heavy", "must be a number"),
        ("quiet", 1, "must be true or false"),
        ("path", [], "must be a text"),
        ("path", "~nobody-has-this-name/x", "home of a user"),
        ("path", "a\0b", "NUL"),
        pytest.param("weight", 10**400, "must be a number", id="larger than any float"),
        pytest.param("seconds", 10**400, "must be a", id="longer than any float"),
        ("weight", float("nan"), "must be a number"),
        ("secret", {"env": "A", "file": "B"}, "is not a secret"),
        ("secret", "", "the secret is empty"),
        ("words", "a b", "must be a list"),
        ("words", [1], "must be a text"),
        ("algorithm", "three", "is not known"),
        ("wait", "soon", "is not a duration"),
        ("seconds", "soon", "is not a duration"),
    ],
)
def test_a_value_of_the_wrong_kind(tmp_path: Path, key: str, value: Any, reason: str) -> None:
    found = refused(tmp_path, {"server": "x"} | {key: value})
    assert list(found) == [f"dns.corp.{key}"]
    assert reason in found[f"dns.corp.{key}"]
    assert f"({key}: " in found[f"dns.corp.{key}"], "the help of the option is part of the remedy"


def test_all_that_is_wrong_is_said_together(tmp_path: Path) -> None:
    found = refused(tmp_path, {"prot": 1, "words": "x", "nameserver": []})
    assert set(found) == {"dns.corp.prot", "dns.corp.words", "dns.corp.nameserver", "dns.corp.server"}
    assert 'did you mean "port"?' in found["dns.corp.prot"]
    assert found["dns.corp.words"].startswith("12 ")
    assert 'did you mean "nameservers"?' in found["dns.corp.nameserver"], (
        "the table's core keys are known too"
    )
    assert "is missing" in found["dns.corp.server"]


def test_what_the_plugin_itself_finds_names_the_table(tmp_path: Path) -> None:
    assert refused(tmp_path, {"server": "nowhere"}) == {
        "dns.corp": "10 server: nobody is there | correct the table [dns.corp]"
    }


def test_secrets_come_from_the_environment_and_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", " from-env\n")
    options = bind(Sample, table(tmp_path, {"server": "x", "secret": {"env": "A_SECRET"}}))
    assert options.secret == Secret("from-env")
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "key").chmod(0o600)
    options = bind(Sample, table(tmp_path, {"server": "x", "secret": {"file": "key"}}))
    assert options.secret == Secret("from-file")
    assert "from-file" not in repr(options)


def test_a_secret_that_cannot_be_had_is_one_problem_among_others(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "key").chmod(0o644)
    found = refused(tmp_path, {"secret": {"file": "key"}})
    assert set(found) == {"dns.corp.secret", "dns.corp.server"}
    assert "others can read" in found["dns.corp.secret"]
    assert "chmod 600" in found["dns.corp.secret"]
    assert "not set" in refused(tmp_path, {"secret": {"env": "SURELY_UNSET"}})["dns.corp.secret"]
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "key").write_text("\n")
    assert "is empty" in refused(tmp_path, {"secret": {"file": "key"}})["dns.corp.secret"]
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    assert "is not text" in refused(tmp_path, {"secret": {"file": "key"}})["dns.corp.secret"]
    assert "cannot be read" in refused(tmp_path, {"secret": {"file": "absent"}})["dns.corp.secret"]


def test_a_configuration_error_of_the_plugin_passes_unchanged(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Strict(Options):
        def __post_init__(self) -> None:
            raise ConfigurationError("no", remedy="yes")

    with pytest.raises(ConfigurationError, match="no") as caught:
        bind(Strict, table(tmp_path, {}))
    assert caught.value.remedy == "yes"
