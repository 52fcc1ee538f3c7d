"""Accounts at CAs: shown, tended, given other keys, ended, lost by the CA and made anew."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dualcert.errors import AccountProblem
from dualcert.lab import Lab
from dualcert.lifecycle import accountkeys, accounts
from dualcert.store import accounts as table
from tests.brokenca import NEW_ORDER, Broken, broken, clock, rows
from tests.faultproxy import Answer, Cut, Hang, problem
from tests.labfixture import ProjectLab
from tests.program import Program, finish

ROLLOVER, ACCOUNT, REGISTER = "/rollover-account-key", "/my-account/", "/sign-me-up"


@pytest.fixture
def scene(lab: ProjectLab, program: Program, tmp_path: Path) -> Iterator[Broken]:
    """Alpha behind a proxy, with an account."""
    with broken(lab, program, "alpha", tmp_path) as scene:
        program.done("account", "register", "alpha")
        yield scene


def stored(program: Program, ca: str = "alpha") -> dict[str, Any]:
    names = ("url", "spki", "wrapped", "contact", "deactivated_at", "next_spki", "next_wrapped")
    [row] = rows(program, f"SELECT {', '.join(names)} FROM account WHERE ca = ?", ca)
    return dict(zip(names, row, strict=True))


def show(program: Program, ca: str = "alpha") -> Any:
    return program.run("account", "show", ca, "--json").json


def kinds(program: Program) -> list[str]:
    return [one["kind"] for one in program.done("events", "--json").lines]


# --- looking ----------------------------------------------------------------------------------------------


def test_an_account_is_shown_as_the_ca_tells_it(scene: Broken) -> None:
    shown = show(scene.program)

    assert (shown["status"], shown["reached"], shown["problem"]) == ("valid", True, None)
    assert shown["url"] == stored(scene.program)["url"]
    assert shown["spki_sha256"] == stored(scene.program)["spki"].hex()
    assert len(shown["key_thumbprint"]) == 43
    assert (shown["domain"], shown["caa_identities"]) == ("primary", ["alpha.lab.test"])
    assert shown["contact"] == shown["contact_configured"]
    assert shown["profiles"] == ["classic", "hour", "shortlived"]
    assert shown["terms_of_service"]
    text = scene.program.done("account", "show", "alpha").out
    for word in ("alpha: valid", shown["url"], shown["key_thumbprint"], "alpha.lab.test"):
        assert word in text


def test_looking_at_all_accounts_registers_none(program: Program) -> None:
    shown = program.done("account", "show", "--json").lines

    assert [(one["ca"], one["url"], one["status"]) for one in shown] == [
        ("alpha", None, None),
        ("beta", None, None),
    ]
    assert rows(program, "SELECT * FROM account") == []
    assert "alpha: no account yet" in program.done("account", "show").out


def test_what_is_recorded_is_shown_of_a_ca_that_cannot_be_reached(scene: Broken) -> None:
    scene.proxy.on("/dir", Cut(None), times=None)

    result = scene.program.run("account", "show", "alpha", "--json")

    assert result.status == 3
    assert (result.json["status"], result.json["reached"]) == (None, False)
    assert result.json["url"] == stored(scene.program)["url"]
    assert result.json["key_thumbprint"]
    assert "CA alpha: the CA could not be asked: " in result.err
    assert "cut the connection" in result.err
    assert "alpha: recorded" in scene.program.run("account", "show", "alpha").out


def test_a_ca_that_is_not_configured_is_a_usage_problem(program: Program) -> None:
    for command in ("show", "update", "rollover", "register"):
        result = program.run("account", command, "gamma")
        assert result.status == 2
        assert "alpha, beta" in result.err
    for command in ("update", "rollover"):
        result = program.run("account", command, "alpha")
        assert result.status == 2
        assert "dualcert account register alpha" in result.err


# --- the contact --------------------------------------------------------------------------------------------


def test_another_contact_is_sent_when_asked_for(scene: Broken) -> None:
    config = scene.program.config
    head, _, rest = config.read_text().partition("[ca.alpha]\n")
    before, _, after = rest.partition("contact = ")
    contact = 'contact = ["mailto:b@example.test"]\n'
    config.write_text(f"{head}[ca.alpha]\n{before}{contact}{after.partition(chr(10))[2]}")
    assert show(scene.program)["contact"] != ["mailto:b@example.test"]
    assert "dualcert account update alpha" in scene.program.done("account", "show", "alpha").out

    assert scene.program.done("account", "update", "alpha", "--json").json["contact"] == [
        "mailto:b@example.test"
    ]

    assert show(scene.program)["contact"] == ["mailto:b@example.test"]
    assert "account update" not in scene.program.done("account", "show", "alpha").out
    assert "account-updated" in kinds(scene.program)


def test_new_terms_wait_for_a_person_and_go_on_after_an_update(scene: Broken) -> None:
    terms = problem(403, "userActionRequired", "the terms have changed")
    links = (
        '<https://ca.example.test/dir>;rel="index", <https://ca.example.test/terms/2>;rel="terms-of-service"'
    )
    scene.proxy.on(NEW_ORDER, Answer(403, terms.body, terms.content_type, (("Link", links),)), times=None)

    result = scene.program.run("issue", scene.name, "--json")

    assert result.status == 3
    assert "https://ca.example.test/terms/2" in result.err
    assert "dualcert account update alpha" in result.err
    assert scene.lineage(result.json)["state"] == "waiting"
    scene.proxy.calm()
    scene.program.run("renew", "--due", "--timeout", "1m")
    assert scene.lineage(scene.program.show(scene.name))["state"] == "waiting"

    assert scene.program.done("account", "update", "alpha", "--json").json["woken"] == 1

    scene.program.done("renew", "--due")
    scene.demand_whole()


# --- another key ----------------------------------------------------------------------------------------------


def test_a_rollover_gives_the_account_another_key_that_the_ca_answers_to(scene: Broken) -> None:
    before, thumbprint = stored(scene.program), show(scene.program)["key_thumbprint"]

    told = scene.program.done("account", "rollover", "alpha", "--json").json

    after = stored(scene.program)
    assert (after["url"], after["next_spki"], after["next_wrapped"]) == (before["url"], None, None)
    assert after["spki"] != before["spki"]
    assert (told["spki_sha256"], told["previous_spki_sha256"]) == (after["spki"].hex(), before["spki"].hex())
    assert scene.proxy.count(ACCOUNT) == 2, "a look before, and the new key's proof"
    shown = show(scene.program)
    assert shown["status"] == "valid"
    assert shown["key_thumbprint"] != thumbprint
    assert kinds(scene.program)[-2:] == ["key-change-wanted", "key-changed"]
    assert scene.program.done("issue", scene.name, "--json").json["protection"] == "protected"


def test_the_new_key_is_stored_before_the_request_leaves(scene: Broken) -> None:
    scene.proxy.on(ROLLOVER, Hang())
    before = stored(scene.program)
    process = scene.program.start("account", "rollover", "alpha")
    until(lambda: scene.proxy.count(ROLLOVER) == 1)

    during = stored(scene.program)

    assert during["spki"] == before["spki"]
    assert during["next_spki"]
    assert during["next_wrapped"]
    scene.proxy.release()
    assert finish(process).status == 0
    assert stored(scene.program)["spki"] == during["next_spki"]


def until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    end = clock.monotonic() + seconds
    while not done():
        assert clock.monotonic() < end
        clock.sleep(0.01)


@pytest.mark.parametrize("heard", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("next_run", ["issue", "show", "rollover"])
def test_a_rollover_that_was_killed_is_finished_by_the_next_run(
    scene: Broken, heard: bool, next_run: str
) -> None:
    """Killed before the CA has heard of the new key, and after it has taken it."""
    scene.proxy.on(ROLLOVER, Hang(forward=heard))
    process = scene.program.start("account", "rollover", "alpha")
    until(lambda: scene.proxy.count(ROLLOVER) == 1)
    coming = stored(scene.program)["next_spki"]
    if heard:
        until(lambda: rolled_over(scene))
    process.kill()
    process.communicate(timeout=10)
    if heard:
        scene.proxy.on(ROLLOVER, Answer(500))  # there is nothing left to ask for

    if next_run == "issue":
        assert scene.program.done("issue", scene.name, "--json").json["protection"] == "protected"
    elif next_run == "show":
        assert (show(scene.program)["status"], show(scene.program)["key_change"]) == ("valid", None)
    else:
        scene.program.done("account", "rollover", "alpha")

    after = stored(scene.program)
    assert (after["spki"], after["next_spki"], after["next_wrapped"]) == (coming, None, None)
    assert show(scene.program)["status"] == "valid"


def rolled_over(scene: Broken) -> bool:
    """Whether the CA knows the old key no more."""
    application = scene.program.application()
    try:
        world = application.world
        with world.store.read() as tx:
            row = table.get(tx, "alpha")
        assert row
        client = world.ca("alpha").authority()
        return client.find_account(accountkeys.open_key(world, row.key)) is None
    finally:
        application.close()


def test_a_rollover_whose_answer_was_lost_says_so_and_the_next_run_finds_out(scene: Broken) -> None:
    scene.proxy.on(ROLLOVER, Cut(None), times=None)

    result = scene.program.run("account", "rollover", "alpha")

    assert result.status == 1
    assert "the CA may have taken the new key" in result.err.lower().replace("the ca", "the CA")
    coming = stored(scene.program)["next_spki"]
    assert coming
    assert show(scene.program)["status"] == "valid"
    assert stored(scene.program)["spki"] == coming


def test_a_key_that_the_ca_refuses_is_dropped(scene: Broken) -> None:
    before = stored(scene.program)
    scene.proxy.on(ROLLOVER, problem(400, "badPublicKey", "we do not like it"))

    result = scene.program.run("account", "rollover", "alpha")

    assert result.status == 1
    assert "we do not like it (badPublicKey)" in result.err
    assert stored(scene.program) == before
    assert kinds(scene.program)[-1] == "key-change-dropped"
    assert show(scene.program)["status"] == "valid"


def test_a_ca_that_says_yes_and_changes_nothing_is_found_out(scene: Broken) -> None:
    before = stored(scene.program)
    scene.proxy.on(ROLLOVER, Answer(200, b"{}", "application/json"))

    result = scene.program.run("account", "rollover", "alpha")

    assert result.status == 1
    assert "the CA said yes to another key for the account, and refuses what it signs" in result.err
    assert "The old key stays" in result.err
    assert stored(scene.program) == before
    assert scene.program.done("account", "rollover", "alpha").status == 0


def test_a_process_that_holds_the_old_key_goes_on_with_the_new_one(scene: Broken) -> None:
    application = scene.program.application()
    try:
        world = application.world
        client = accounts.authority(world, world.ca("alpha"))
        order = client.new_order([scene.name])

        scene.program.done("account", "rollover", "alpha", "--now")

        assert client.order(order.url).status == "pending"
        assert client.new_order([f"b.{scene.name}"]).status == "pending"
        old = [one for one in scene.proxy.seen if one.path.startswith("/my-order/")]
        assert len(old) == 2, "refused once, then signed by the new key"
    finally:
        application.close()


def test_many_threads_with_the_old_key_all_go_on(scene: Broken) -> None:
    application = scene.program.application()
    try:
        world = application.world
        client = accounts.authority(world, world.ca("alpha"))
        order = client.new_order([scene.name])
        scene.program.done("account", "rollover", "alpha", "--now")
        gate, seen = threading.Barrier(4), []

        def look() -> None:
            gate.wait(10)
            seen.append(client.order(order.url).status)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert seen == ["pending"] * 4
    finally:
        application.close()


def test_orders_between_their_challenges_hold_a_rollover_up_unless_it_is_urgent(
    lab: ProjectLab, scene: Broken
) -> None:
    scene.proxy.on("/chalZ/", Hang(), times=None)
    process = scene.program.start("issue", scene.name, "--timeout", "20s")
    until(lambda: scene.proxy.count("/chalZ/") == 1)

    refused = scene.program.run("account", "rollover", "alpha")

    assert refused.status == 4
    assert "1 order is under way there" in refused.err
    assert "--now" in refused.err
    assert stored(scene.program)["next_spki"] is None
    assert scene.program.done("account", "rollover", "alpha", "--now").status == 0
    scene.proxy.calm()
    finish(process)
    # The values were made with the old key: that order failed, and another one does not.
    assert scene.program.run("renew", scene.name).status == 0
    scene.demand_whole()
    assert lab.leftovers() == {}


def test_two_rollovers_at_once_leave_one_key_that_the_ca_knows(scene: Broken) -> None:
    scene.proxy.on(ROLLOVER, Hang())
    first = scene.program.start("account", "rollover", "alpha")
    until(lambda: scene.proxy.count(ROLLOVER) == 1)

    second = scene.program.run("account", "rollover", "alpha")

    assert second.status == 4
    assert "another process is changing the account's key" in second.err
    # Who only wants to order does not wait for it.
    assert scene.program.done("issue", scene.name, "--json").json["protection"] == "protected"
    scene.proxy.release()
    assert finish(first).status == 0
    assert show(scene.program)["status"] == "valid"
    assert stored(scene.program)["next_spki"] is None


# --- the end of an account ------------------------------------------------------------------------------------


def test_a_deactivated_account_orders_nothing_until_a_person_wants_a_new_one(
    lab: ProjectLab, scene: Broken
) -> None:
    pair = scene.program.done("issue", scene.name, "--json").json
    old = stored(scene.program)

    scene.program.done("account", "deactivate", "alpha", "--yes")

    shown = scene.program.run("account", "show", "alpha", "--json")
    assert (shown.json["status"], shown.json["url"]) == ("refused", old["url"])
    assert shown.json["deactivated_at"]
    assert "dualcert account register alpha" in shown.err
    result = scene.program.run("renew", scene.name, "--force")
    assert result.status == 3
    for word in (scene.name, "CA alpha", "its account was deactivated on", "dualcert account register alpha"):
        assert word in result.err, word
    # What is there still serves, and no account was made behind anybody's back.
    assert scene.program.show(scene.name)["primary"]["certificate"] == pair["primary"]["certificate"]
    assert stored(scene.program)["url"] == old["url"]

    told = scene.program.done("account", "register", "alpha", "--json").json

    after = stored(scene.program)
    assert after["url"] == told["url"] != old["url"]
    assert after["spki"] != old["spki"]
    assert (told["registered"], told["woken"]) == (True, 1)
    scene.program.done("renew", "--due")
    scene.demand_whole()
    assert lab.leftovers() == {}


def test_a_deactivation_wants_a_person_or_a_yes(scene: Broken) -> None:
    result = scene.program.run("account", "deactivate", "alpha")

    assert result.status == 2
    assert "--yes" in result.err
    assert stored(scene.program)["deactivated_at"] is None
    assert show(scene.program)["status"] == "valid"


@pytest.mark.parametrize(("answer", "status"), [("n", 4), ("y", 0)])
def test_a_person_at_a_terminal_is_asked_before_a_deactivation(
    scene: Broken, answer: str, status: int
) -> None:
    master, terminal = pty.openpty()
    with os.fdopen(master, "r+b", buffering=0) as keyboard, os.fdopen(terminal) as stdin:
        keyboard.write(f"{answer}\n".encode())
        process = subprocess.run(
            scene.program.command("account", "deactivate", "alpha"),
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    assert process.returncode == status, process
    assert "no pairs have certificates from alpha" in process.stderr
    assert "Deactivate the account?" in process.stderr
    assert (stored(scene.program)["deactivated_at"] is None) == (status == 4)


def test_a_deactivation_that_the_ca_did_not_hear_of_is_made_up_for(scene: Broken) -> None:
    scene.proxy.on(ACCOUNT, Answer(500))

    result = scene.program.run("account", "deactivate", "alpha", "--yes")

    assert result.status == 1
    assert "say it again" in result.err
    assert "deactivated" in scene.program.run("issue", scene.name).err
    assert scene.program.done("account", "deactivate", "alpha", "--yes").status == 0
    assert show(scene.program)["status"] == "refused"
    assert scene.program.done("account", "deactivate", "alpha", "--yes").status == 0


def test_an_account_that_was_not_deactivated_in_the_end_is_taken_up_again(scene: Broken) -> None:
    scene.proxy.on(ACCOUNT, Answer(500))
    before = stored(scene.program)
    assert scene.program.run("account", "deactivate", "alpha", "--yes").status == 1

    told = scene.program.done("account", "register", "alpha", "--json").json

    assert (told["url"], stored(scene.program)) == (before["url"], before)
    assert scene.program.done("issue", scene.name, "--json").json["protection"] == "protected"


def test_another_process_notices_that_the_account_has_ended(scene: Broken) -> None:
    application = scene.program.application()
    try:
        world = application.world
        client = accounts.authority(world, world.ca("alpha"))
        client.new_order([scene.name])
        scene.program.done("account", "deactivate", "alpha", "--yes")
        with pytest.raises(AccountProblem, match="^CA alpha: its account was deactivated on"):
            client.new_order([scene.name])
        scene.program.done("account", "register", "alpha")
        assert client.new_order([scene.name]).status == "pending"
    finally:
        application.close()


def test_an_account_that_is_well_is_left_alone_by_register(scene: Broken) -> None:
    before = stored(scene.program)

    told = scene.program.done("account", "register", "alpha", "--json").json

    assert (told["registered"], told["url"]) == (False, before["url"])
    assert stored(scene.program) == before


# --- an account that the CA has lost ------------------------------------------------------------------------


def test_a_lost_account_is_registered_anew_with_its_key_and_everything_goes_on(tmp_path: Path) -> None:
    with Lab.start(tmp_path / "lab") as lab:
        program, name = Program(lab.config_path), f"a.{lab.domain}"
        program.done("init")
        before = program.done("issue", name, "--json").json
        old = stored(program)
        lab.alpha.restart()
        assert show(program)["status"] == "unknown"
        assert "dualcert account register alpha" in program.run("account", "show", "alpha").err
        assert program.show(name)["primary"]["certificate"] == before["primary"]["certificate"], (
            "still serves"
        )

        after = program.done("renew", name, "--force", "--json").json

        assert after["protection"] == "protected"
        assert after["primary"]["certificate"] != before["primary"]["certificate"]
        new = stored(program)
        assert (new["url"] != old["url"], new["spki"]) == (True, old["spki"])
        [told] = [one for one in program.done("events", "--json").lines if old["url"] in one["cause"]][1:]
        assert (told["kind"], told["ca"]) == ("account-registered", "alpha")
        assert f"because the CA does not know {old['url']} any more" in told["cause"]
        assert [step for (step,) in rows(program, "SELECT step FROM acme_order WHERE ca = 'alpha'")] == [
            "stored",
            "stored",
        ]


def test_a_lost_account_that_needs_a_binding_of_its_own_waits_for_a_person(
    lab: ProjectLab, program: Program, tmp_path: Path
) -> None:
    with broken(lab, program, "beta", tmp_path) as scene:
        program.done("account", "register", "beta")
        lost = problem(400, "accountDoesNotExist", "never heard of you")
        scene.proxy.on(NEW_ORDER, lost, times=None)
        scene.proxy.on(REGISTER, problem(403, "unauthorized", "this key id was used before"), times=None)

        result = program.run("issue", scene.name, "--json")

        assert result.status == 3
        assert "never heard of you (accountDoesNotExist)" in result.err
        assert "this key id was used before" in result.err
        assert scene.lineage(result.json)["state"] == "waiting"
        assert scene.lineage(result.json, "alpha")["state"] == "serving"
        scene.proxy.calm()
        program.done("account", "register", "beta")
        program.done("renew", "--due")
        scene.demand_whole()


def test_a_ca_that_loses_an_account_all_the_time_is_not_run_over(scene: Broken) -> None:
    scene.proxy.on(NEW_ORDER, problem(400, "accountDoesNotExist", "never heard of you"), times=None)

    result = scene.program.run("issue", scene.name, "--json")

    assert result.status == 3
    assert scene.lineage(result.json)["state"] == "waiting"
    assert scene.proxy.count(NEW_ORDER) == 2
    assert "dualcert account register alpha" in result.err


def test_a_ca_that_wants_a_binding_says_how_and_goes_on_when_it_has_one(
    lab: ProjectLab, program: Program
) -> None:
    config = program.config
    whole = config.read_text()
    [line] = [line for line in whole.splitlines() if line.startswith("eab = ")]
    config.write_text(whole.replace(f"{line}\n", ""))

    result = program.run("issue", lab.domain, "--json")

    assert result.status == 3
    for word in ("CA beta", "[ca.beta]", "eab = {", "dualcert account register beta"):
        assert word in result.err, word
    assert result.json["backup"]["state"] == "waiting"
    config.write_text(whole)
    program.done("account", "register", "beta")
    program.done("renew", "--due")
    assert program.show(lab.domain)["protection"] == "protected"


def test_no_key_is_shown_anywhere(scene: Broken) -> None:
    texts = []
    for command in ("show", "rollover", "update", "register"):
        result = scene.program.run("-vv", "account", command, "alpha")
        texts.append(result.out + result.err)
    assert "PRIVATE KEY" not in "".join(texts)
    assert json.dumps(kinds(scene.program))
