"""The history is sealed, and what was done to it afterwards is found."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.labfixture import ProjectLab
from tests.program import Program


@pytest.fixture
def issued(lab: ProjectLab, program: Program) -> Program:
    program.done("issue", lab.domain)
    return program


def changed(lab: ProjectLab, statement: str) -> None:
    with closing(sqlite3.connect(lab.config_path.parent / "dualcert.db")) as database:
        database.execute(statement)
        database.commit()


def test_the_history_is_sealed_where_no_daemon_runs(issued: Program) -> None:
    first = issued.done("events", "--verify")
    assert first.out.startswith("nothing was sealed yet, ")
    again = issued.done("events", "--verify", "--json").json
    count = len(issued.done("events", "--json").lines)
    assert (again["ok"], again["head"]["last_id"], again["newer"], again["broken"]) == (True, count, 0, None)
    assert f"sealed to {count}, 0 newer" in issued.done("events", "--verify").out


def test_a_head_that_was_kept_convicts_whoever_sealed_anew(
    lab: ProjectLab, issued: Program, tmp_path: Path
) -> None:
    kept = tmp_path / "heads.jsonl"
    kept.write_text(issued.done("events", "--head").out)
    issued.done("failover", lab.domain)
    kept.write_text(kept.read_text() + issued.done("events", "--head").out)
    assert "2 of them were kept elsewhere" in issued.done("events", "--verify", "--against", str(kept)).out

    changed(lab, "UPDATE event SET actor = 'nobody' WHERE kind = 'promoted'")
    broken = issued.run("events", "--verify", "--json")
    assert (broken.status, broken.json["ok"]) == (1, False)
    assert broken.json["broken"].startswith("seal 2, events ")
    assert broken.json["head"]["no"] == 1

    changed(lab, "DELETE FROM seal WHERE no = 2")
    refused = issued.run("events", "--head")
    assert refused.status == 1
    assert "seal 2 is not the one that was signed" in refused.err
    assert "seal 2, which was signed at" in issued.run("events", "--verify").out

    # Who can delete a seal can delete its signature.
    changed(lab, "DELETE FROM signed_head WHERE no = 2")
    issued.done("events", "--head")
    issued.done("events", "--verify")
    found = issued.run("events", "--verify", "--against", str(kept))
    assert found.status == 1
    assert "kept elsewhere (line 2)" in found.out


def test_the_next_head_does_not_vouch_for_a_history_that_was_rewritten(
    lab: ProjectLab, issued: Program
) -> None:
    issued.done("events", "--head")
    changed(lab, "UPDATE event SET actor = 'nobody' WHERE id = 3")
    sealed_anew(lab, 1)
    issued.done("failover", lab.domain)
    refused = issued.run("events", "--head")
    assert (refused.status, refused.out) == (1, "")
    assert "seal 1 is not the one that was signed" in refused.err
    assert "seal 1, which was signed at" in issued.run("events", "--verify").out


def test_a_verdict_is_told_where_what_is_newer_cannot_be_sealed(lab: ProjectLab, issued: Program) -> None:
    assert "what was newer is sealed now" in issued.done("events", "--verify").out
    assert issued.done("events", "--verify", "--json").json["unsealed"] is None
    issued.done("failover", lab.domain)
    changed(lab, "UPDATE event SET cause = CAST(x'ff' AS TEXT) WHERE id = (SELECT max(id) FROM event)")
    told = issued.done("events", "--verify")
    assert "1 seal is right" in told.out
    assert "what is newer could not be sealed: " in told.out
    assert "is sealed now" not in told.out
    data = issued.done("events", "--verify", "--json").json
    assert (data["ok"], data["broken"], data["head"]["no"], data["newer"] > 0) == (True, None, 1, True)
    assert "`cause` of event" in data["unsealed"]
    # What is wrong besides decides, as ever.
    changed(lab, "UPDATE event SET actor = 'nobody' WHERE id = 3")
    assert issued.run("events", "--verify").status == 1


def test_a_history_that_ends_too_early_is_noticed(lab: ProjectLab, issued: Program, tmp_path: Path) -> None:
    kept = tmp_path / "heads.jsonl"
    kept.write_text(issued.done("events", "--head").out)
    last = json.loads(kept.read_text())["last_id"]
    changed(lab, f"DELETE FROM event WHERE id = {last}")
    assert "were sealed, and there are" in issued.run("events", "--verify").out
    changed(lab, "DELETE FROM seal")
    changed(lab, "DELETE FROM signed_head")
    issued.done("events", "--verify")
    found = issued.run("events", "--verify", "--against", str(kept))
    assert found.status == 1, found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("events", "--verify", "--head"), "stand alone"),
        (("events", "--against", "x"), "belongs to --verify"),
        (("events", "--verify", "--against", "absent"), "absent cannot be read: No such file"),
    ],
)
def test_what_cannot_be_asked_is_refused(program: Program, arguments: tuple[str, ...], says: str) -> None:
    refused = program.run(*arguments)
    assert refused.status == 2
    assert says in refused.err


def test_a_file_that_holds_no_heads_is_refused(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "heads"
    digest = "00" * 32
    numbers = [f'{{"no": {no}, "digest": "{digest}"}}\n' for no in ("0", "-1", "3.7", "true", '"1"', "null")]
    for text in ("{}\n", "[1]\n", "[" * 100_000, *numbers):
        file.write_text(text)
        refused = program.run("events", "--verify", "--against", str(file))
        assert (refused.status, "line 1: this is not a head" in refused.err) == (2, True), refused
    for text, says in (("", "holds no head"), ("\n", "holds no head")):
        file.write_text(text)
        refused = program.run("events", "--verify", "--against", str(file))
        assert (refused.status, says in refused.err) == (2, True), refused


def test_an_empty_history_has_no_head(program: Program) -> None:
    empty = program.done("events", "--head")
    assert (empty.out, "nothing has happened yet" in empty.err) == ("", True)
    assert program.done("events", "--verify").out.startswith("nothing was sealed yet, 0 newer")


# --- signatures ------------------------------------------------------------------------------------------


def test_a_signed_head_is_known_by_the_public_key_alone(
    lab: ProjectLab, issued: Program, tmp_path: Path
) -> None:
    key, kept = tmp_path / "signing-key.pem", tmp_path / "heads.jsonl"
    key.write_text(issued.done("events", "--public-key").out)
    kept.write_text(issued.done("events", "--head").out)
    issued.done("failover", lab.domain)
    kept.write_text(kept.read_text() + issued.done("events", "--head").out)

    told = issued.done("events", "--verify", "--against", str(kept), "--signed-by", str(key))
    assert (
        "2 of them were kept elsewhere, and are the same, each signed with a key that was given" in told.out
    )
    assert "is the one that was signed at" in told.out
    data = issued.done("events", "--verify", "--against", str(kept), "--signed-by", str(key), "--json").json
    assert (data["ok"], data["compared"], data["by_signature"], data["signed"]["no"]) == (True, 2, 2, 2)
    assert [one["kind"] for one in issued.done("events", "--json").lines].count("signing-key-made") == 1

    # The same head again is the same line: what one has signed is signed once.
    assert issued.done("events", "--head").out == kept.read_text().splitlines(keepends=True)[1]


@pytest.mark.parametrize(
    "name", ["no", "last_id", "digest", "at", "signed_at", "history", "key", "what", "signature"]
)
def test_no_part_of_a_signed_head_can_be_changed(issued: Program, tmp_path: Path, name: str) -> None:
    key, kept = tmp_path / "signing-key.pem", tmp_path / "heads.jsonl"
    key.write_text(issued.done("events", "--public-key").out)
    line = issued.done("events", "--head").json
    other = line[name] + 1 if isinstance(line[name], int) else line[name][::-1]
    kept.write_text(json.dumps({**line, name: other}) + "\n")
    found = issued.run("events", "--verify", "--against", str(kept), "--signed-by", str(key))
    assert found.status == 1
    assert "line 1 (seal" in found.out
    assert "is not signed with that key" in found.out


def test_a_head_that_is_signed_with_another_key_or_not_at_all_is_not_believed(
    issued: Program, tmp_path: Path
) -> None:
    kept, stranger = tmp_path / "heads.jsonl", tmp_path / "stranger.pem"
    line = issued.done("events", "--head").json
    kept.write_text(json.dumps(line) + "\n")
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    stranger.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert issued.run("events", "--verify", "--against", str(kept), "--signed-by", str(stranger)).status == 1
    key = tmp_path / "signing-key.pem"
    key.write_text(issued.done("events", "--public-key").out)
    del line["signature"]
    kept.write_text(json.dumps(line) + "\n")
    assert issued.run("events", "--verify", "--against", str(kept), "--signed-by", str(key)).status == 1
    key.write_text("no key\n")
    no_key = issued.run("events", "--verify", "--against", str(kept), "--signed-by", str(key))
    assert (no_key.status, "holds no public key in PEM" in no_key.err) == (2, True)


def test_openssl_and_jq_verify_a_head_as_the_page_for_auditors_says(issued: Program, tmp_path: Path) -> None:
    """`jq -cjS` writes names in order and no white space; so does this, where there is no jq."""
    (tmp_path / "signing-key.pem").write_text(issued.done("events", "--public-key").out)
    line = issued.done("events", "--head").json
    signature = base64.b64decode(line.pop("signature"))
    (tmp_path / "head.txt").write_text(json.dumps(line, sort_keys=True, separators=(",", ":")))
    (tmp_path / "head.sig").write_bytes(signature)
    command = [
        "openssl",
        "dgst",
        "-sha256",
        "-verify",
        "signing-key.pem",
        "-signature",
        "head.sig",
        "head.txt",
    ]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.stdout == "Verified OK\n", told
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", "signing-key.pem", "-outform", "DER"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    ).stdout
    assert hashlib.sha256(der).hexdigest() == line["key"]


def test_who_has_the_database_and_no_kek_cannot_sign_a_history_of_his_own(
    lab: ProjectLab, issued: Program, tmp_path: Path
) -> None:
    issued.done("events", "--head")
    changed(lab, "UPDATE event SET actor = 'nobody' WHERE id = 3")
    # He computes the seal anew, as the page for auditors says.
    sealed_anew(lab, 1)
    assert "seal 1, which was signed at" in (told := issued.run("events", "--verify").out)
    assert "is another one now" in told
    # He has a key of his own, and no KEK to wrap it under.
    changed(lab, "UPDATE wrapped_key SET wrapped = x'00' WHERE spki IN (SELECT spki FROM signing_key)")
    told = issued.run("events", "--verify").out
    assert "whether it is the same is not known" in told
    assert issued.run("events", "--head").status == 1


def sealed_anew(lab: ProjectLab, no: int) -> None:
    with closing(sqlite3.connect(lab.config_path.parent / "dualcert.db")) as database:
        query = "SELECT no, first_id, last_id, count, previous, at FROM seal WHERE no = ?"
        number, first, last, count, previous, at = database.execute(query, (no,)).fetchone()
        columns = "id, at, kind, actor, cause, pair_id, ca, target, certificate_id, previous_id"
        rows = database.execute(
            f"SELECT {columns} FROM event WHERE id BETWEEN ? AND ? ORDER BY id", (first, last)
        )
        text = json.dumps(
            [[number, first, last, count, previous.hex(), at], *rows],
            ensure_ascii=False,
            separators=(",", ":"),
        )
        digest = hashlib.sha256(text.encode()).digest()
        database.execute("UPDATE seal SET digest = ? WHERE no = ?", (digest, no))
        database.commit()


def test_the_report_of_an_incident_carries_the_signed_head_of_all_that_has_happened(
    issued: Program, tmp_path: Path
) -> None:
    issued.done("incident", "open", "--title", "t", "--within", "24h", "--ca", "alpha")
    head = issued.done("incident", "report", "1", "--format", "json").json["sealed"]
    assert head["last_id"] == len(issued.done("events", "--json").lines)
    told = issued.done("incident", "report", "1", "--format", "md").out
    [line] = [one for one in told.splitlines() if one.startswith("    {")]
    assert json.loads(line)["digest"] == head["digest"]
    key, kept = tmp_path / "signing-key.pem", tmp_path / "heads.jsonl"
    key.write_text(issued.done("events", "--public-key").out)
    kept.write_text(f"{line.strip()}\n{json.dumps(head)}\n")
    issued.done("events", "--verify", "--against", str(kept), "--signed-by", str(key))


def test_an_older_signature_whose_key_is_under_no_configured_kek_is_told(
    lab: ProjectLab, issued: Program
) -> None:
    issued.done("events", "--head")
    assert issued.done("events", "--verify", "--json").json["unchecked"] is None
    changed(lab, "UPDATE wrapped_key SET domain = 'gone' WHERE spki IN (SELECT spki FROM signing_key)")
    told = issued.run("events", "--verify")
    assert told.status == 1
    assert "whether it is the same is not known, for its key lies under the KEK of [keys.gone]" in told.out
    issued.done("events", "--head")
    assert "  1 older signature could not be checked: its key lies" in issued.done("events", "--verify").out
    unchecked = issued.done("events", "--verify", "--json").json["unchecked"]
    assert (unchecked["count"], "[keys.gone]" in unchecked["reason"]) == (1, True)


def test_a_report_is_written_where_no_head_can_be_signed(lab: ProjectLab, issued: Program) -> None:
    issued.done("incident", "open", "--title", "t", "--within", "24h", "--ca", "alpha")
    before = issued.done("incident", "report", "1", "--format", "json")
    assert (before.json["unsealed"], before.err) == (None, "")
    changed(lab, "UPDATE wrapped_key SET wrapped = x'00' WHERE spki IN (SELECT spki FROM signing_key)")
    data = issued.done("incident", "report", "1", "--format", "json")
    assert data.json["sealed"] is None
    assert len(data.json["certificates"]) == len(before.json["certificates"]) > 0
    told = issued.done("incident", "report", "1")
    assert f"No signed head of the history: {data.json['unsealed']}." in told.out
    assert "Sealed history" not in told.out
    for one in (data, told):
        assert "the report is without a signed head of the history" in one.err


def test_a_kek_that_leaked_takes_the_signing_key_with_it(
    lab: ProjectLab, issued: Program, tmp_path: Path
) -> None:
    keys, kept = tmp_path / "signing-keys.pem", tmp_path / "heads.jsonl"
    keys.write_text(issued.done("events", "--public-key").out)
    kept.write_text(issued.done("events", "--head").out)
    before = json.loads(kept.read_text())["key"]
    issued.done("keys", "rotate", "backup")
    assert issued.done("events", "--head").json["key"] == before
    result = issued.run("compromise", "--domain", "backup")
    assert result.status in {0, 3}, result
    after = issued.done("events", "--head").json
    assert after["key"] != before
    assert issued.done("events", "--verify", "--json").json["signed"]["no"] == after["no"]

    # One file of heads, and one of keys, go on through the change.
    kept.write_text(f"{kept.read_text()}{json.dumps(after)}\n")
    verify = ("events", "--verify", "--against", str(kept), "--signed-by", str(keys))
    broken = issued.run(*verify)
    assert broken.status == 1
    assert f"line 2 (seal {after['no']}) is not signed with that key" in broken.out
    assert after["key"] in broken.out
    keys.write_text(keys.read_text() + issued.done("events", "--public-key").out)
    assert "each signed with a key that was given" in issued.done(*verify).out
