"""A failover that would leave things worse is refused, says why, and changes nothing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dualcert.clock import SystemClock, to_microseconds
from dualcert.plugins.keys import kekfile
from dualcert.store import certificates, pairs
from tests import rawdatabase
from tests.labfixture import ProjectLab
from tests.program import Program, Result

_clock = SystemClock()


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return lab.domain


def sql(program: Program, statement: str, *values: object) -> None:
    """Change the database behind the program's back."""
    assert rawdatabase.change(program.config, statement, *values) >= 1


@dataclass(frozen=True)
class Scene:
    """All that a failover could change: state, what is deployed, what is served, what was recorded."""

    roles: list[tuple[str, str | None]]
    epoch: int
    files: dict[str, bytes]
    served: str
    promotions: int

    @classmethod
    def of(cls, lab: ProjectLab, program: Program) -> Scene:
        pair = program.show(lab.domain)
        return cls(
            [
                (pair[role]["ca"], (pair[role]["certificate"] or {}).get("sha256"))
                for role in ("primary", "backup")
            ],
            pair["epoch"],
            {
                str(path.relative_to(lab.live)): path.read_bytes()
                for path in sorted(lab.live.rglob("*"))
                if path.is_file() and not path.name.endswith("lock")
            },
            hashlib.sha256(lab.handshake(lab.domain)).hexdigest(),
            sum(event["kind"] == "promoted" for event in program.events(lab.domain)),
        )


def refused(lab: ProjectLab, program: Program, *reasons: str) -> None:
    """`failover` exits 4 with the reasons and a remedy, and nothing is other than before, dry run or not."""
    before = Scene.of(lab, program)
    for options in (["--dry-run"], ["--revoke", "--reason", "keyCompromise"], ["--to", "beta"], []):
        result = program.run("failover", lab.domain, *options)

        assert result.status == 4, (options, result)
        assert result.out == ""
        for word in (lab.domain, "beta", "Nothing was changed", f"dualcert renew {lab.domain}", *reasons):
            assert word in result.err
    assert Scene.of(lab, program) == before
    assert program.show(lab.domain)["protection"] == "unprotected"


def test_a_revoked_backup(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    program.done("revoke", name, "--role", "backup")

    refused(lab, program, "the backup certificate is revoked")
    assert program.show(name)["backup"]["state"] == "revoked"
    assert program.done("show", name).out.count("renews") == 1  # the primary


def test_a_backup_that_has_expired(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    a_minute_ago = to_microseconds(_clock.now()) - 60_000_000
    sql(program, "UPDATE certificate SET not_after = ? WHERE ca = 'beta'", a_minute_ago)

    refused(lab, program, "the backup certificate expired on 2")
    assert program.show(name)["backup"]["state"] == "expired"


def test_a_backup_whose_key_is_blocked(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    application = program.application()
    with application.world.store.write() as tx:
        pair = pairs.by_name(tx, name)
        assert pair is not None
        standby = pairs.state(tx, pair.id).standby
        assert standby is not None
        certificates.block_key(tx, certificates.get(tx, standby).spki, "seen in a public repository")
    application.close()

    refused(lab, program, "the backup's key is blocked after a compromise")


def _tampered(program: Program) -> None:
    """One byte of the backup's wrapped key is another."""
    query = "SELECT wrapped FROM wrapped_key WHERE domain = 'backup'"
    [(wrapped,)] = rawdatabase.rows(program.config, query)
    changed = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    sql(program, "UPDATE wrapped_key SET wrapped = ? WHERE domain = 'backup'", changed)


def _lost(program: Program) -> None:
    sql(program, "DELETE FROM wrapped_key WHERE domain = 'backup'")


def _other_kek(program: Program) -> None:
    kek = program.config.parent / "keys" / "backup.kek"
    kek.unlink()
    kekfile.create(kek)


def _swapped(program: Program) -> None:
    """The backup's row holds what was wrapped for the primary's key."""
    sql(
        program,
        "UPDATE wrapped_key SET wrapped = (SELECT wrapped FROM wrapped_key WHERE domain = 'primary') "
        "WHERE domain = 'backup'",
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_tampered, "was changed, or belongs to something else"),
        (_lost, "is not kept any more"),
        (_other_kek, "was wrapped under another KEK"),
        (_swapped, "was wrapped under another KEK"),
    ],
)
def test_a_backup_whose_key_cannot_be_opened(
    lab: ProjectLab, program: Program, name: str, spoil: Callable[[Program], None], reason: str
) -> None:
    program.done("issue", name)
    spoil(program)
    dry = program.run("failover", name, "--dry-run")
    assert (dry.status, program.show(name)["protection"]) == (4, "protected"), (
        "a dry run does not even record it"
    )

    assert program.run("failover", name).status == 4
    refused(lab, program, "the backup's private key cannot be opened", reason)
    assert "proof-failed" in [event["kind"] for event in program.events(name)]


def test_a_backup_that_was_never_issued(lab: ProjectLab, program: Program, name: str) -> None:
    whole = program.config.read_text()
    beta_is_away = re.sub(r'(?s)(\[ca\.beta\]\ndirectory = )"[^"]*"', r'\1"https://127.0.0.1:1/dir"', whole)
    program.config.write_text(beta_is_away)
    assert program.run("issue", name, "--timeout", "30s").status == 3

    refused(lab, program, "there is no backup certificate")
    program.config.write_text(whole)
    program.done("renew", name)
    program.done("failover", name)


def test_a_backup_that_does_not_cover_the_names(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    whole = program.config.read_text()
    lab.beta.stop()
    try:
        result = program.run("issue", name, f"www.{name}", "--replace-names", "--timeout", "2s")
    finally:
        lab.beta.restart()
    assert result.status == 3, result
    assert program.show(name)["backup"]["state"] == "ready"
    assert program.config.read_text() == whole

    refused(lab, program, "the backup certificate does not cover the pair's names")


def test_several_reasons_are_all_told(program: Program, name: str) -> None:
    program.done("issue", name)
    program.done("revoke", name, "--role", "backup", "--reason", "keyCompromise")
    sql(program, "UPDATE certificate SET not_after = not_before WHERE ca = 'beta'")

    result = program.run("failover", name)

    assert result.status == 4
    for reason in ("is revoked", "is blocked", "expired on"):
        assert reason in result.err


def test_a_backup_made_usable_again_is_promoted(program: Program, name: str) -> None:
    program.done("issue", name)
    program.done("revoke", name, "--role", "backup")
    assert program.run("failover", name).status == 4

    program.done("renew", name)

    assert program.done("failover", name, "--json").json["to"]["ca"] == "beta"


# --- what was typed --------------------------------------------------------------------------------------


def usage(result: Result, *words: str) -> None:
    assert result.status == 2, result
    assert result.out == ""
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


def test_a_ca_that_does_not_stand_behind_the_pair(program: Program, name: str) -> None:
    program.done("issue", name)
    before = program.show(name)

    usage(program.run("failover", name, "--to", "gamma"), "gamma", "alpha and beta", name)
    assert program.show(name) == before


@pytest.mark.parametrize(
    "command",
    [
        ["failover"],
        ["show"],
        ["renew"],
        ["events"],
        ["revoke", "--role", "backup"],
        ["export", "--to", "somewhere"],
    ],
)
def test_a_pair_that_does_not_exist(program: Program, command: list[str]) -> None:
    result = program.run(*command, "nobody.example.test")

    usage(result, "nobody.example.test", "dualcert list")
    usage(program.run(*command, "\x1b[31m"), "'\\x1b[31m'", "dualcert list")


@pytest.fixture
def quiet(program: Program) -> str:
    """A target that nobody looks at: the lab's nginx knows only pairs that are called as their first name."""
    text = program.config.read_text()
    program.config.write_text(text + '\n[target.quiet]\ndeployer = "files"\ndirectory = "quiet"\n')
    return "quiet"


def test_a_name_that_two_pairs_cover(program: Program, name: str, quiet: str) -> None:
    program.done("issue", f"*.{name}", "--name", "wild", "--target", quiet)
    program.done("issue", name, f"www.{name}", "--name", "site", "--target", quiet)

    usage(program.run("failover", f"www.{name}"), "wild", "site", "Name the pair that you mean")
    assert {one["epoch"] for one in program.done("list", "--json").lines} == {0}
    assert program.done("failover", f"shop.{name}", "--json").json["pair"] == "wild"
    assert program.done("failover", "site", "--json").json["pair"] == "site"


def test_a_pairs_own_name_goes_before_names_that_others_cover(
    program: Program, name: str, quiet: str
) -> None:
    program.done("issue", f"*.{name}", "--name", "wild", "--target", quiet)
    program.done("issue", f"www.{name}")

    assert program.show(f"www.{name}")["pair"] == f"www.{name}"
    assert program.show(f"WWW.{name}.")["pair"] == f"www.{name}"


def test_the_serving_certificate_is_not_revoked_by_revoke(program: Program, name: str) -> None:
    program.done("issue", name)
    before = program.show(name)

    usage(program.run("revoke", name, "--role", "primary"), name, f"dualcert failover {name} --revoke")
    assert program.show(name) == before


def test_an_export_into_what_is_no_folder_says_so(program: Program, name: str, tmp_path: Path) -> None:
    program.done("issue", name)
    (tmp_path / "out").touch()

    result = program.run("export", name, "--to", str(tmp_path / "out"))

    assert result.status == 1
    assert "out cannot be written: it is a file, not a folder" in result.err


def test_an_export_of_a_backup_that_is_not_there_writes_nothing(
    program: Program, name: str, tmp_path: Path
) -> None:
    program.config.write_text(
        re.sub(
            r'(?s)(\[ca\.beta\]\ndirectory = )"[^"]*"',
            r'\1"https://127.0.0.1:1/dir"',
            program.config.read_text(),
        )
    )
    assert program.run("issue", name, "--timeout", "30s").status == 3

    result = program.run("export", name, "--to", str(tmp_path / "out"), "--role", "backup", "--with-key")

    assert result.status in {1, 2, 4}
    assert "backup" in result.err
    assert not (tmp_path / "out").exists()
