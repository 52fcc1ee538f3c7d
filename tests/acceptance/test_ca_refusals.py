"""What CAs refuse, in their own words, with the right next step for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.brokenca import AUTHORIZATION, FINALIZE, NEW_ORDER, ORDER, Broken, broken, change, clock, say_in
from tests.faultproxy import Answer, problem
from tests.labfixture import ProjectLab
from tests.program import Program, Result

UNPAUSE = "https://portal.example.test/sfe/v1/unpause?jwt=" + "eyJhbGciOiJIUzI1NiJ9." * 40 + "end"
PAUSED = (
    "Your account is temporarily prevented from requesting certificates for {name} and possibly others. "
    "Please visit: {url}"
)


@pytest.fixture
def scene(lab: ProjectLab, program: Program, tmp_path: Path) -> Iterator[Broken]:
    with broken(lab, program, "alpha", tmp_path) as scene:
        yield scene


def issue(scene: Broken) -> tuple[Result, Any]:
    """The command, and what it shows of the CA that refuses; the other CA's certificate serves all the same."""
    result = scene.program.run("issue", scene.name, "--json")
    assert result.status == 3, result
    for word in (scene.name, "CA alpha", f"dualcert renew {scene.name}"):
        assert word in result.err, (word, result.err)
    assert "Traceback" not in result.err
    assert scene.lineage(result.json, "beta")["certificate"]
    return result, scene.lineage(result.json)


def demand_mended(lab: ProjectLab, scene: Broken) -> None:
    scene.proxy.calm()
    assert scene.program.run("renew", scene.name).status == 0
    scene.demand_whole()
    assert lab.leftovers() == {}


def soon(lineage: Any) -> bool:
    """Whether it is tried again by itself, and not at once."""
    again = datetime.fromisoformat(lineage["renewal"]["next_try"])
    return timedelta(minutes=4) < again - clock.now() < timedelta(minutes=7)


@pytest.mark.parametrize(("status", "kind"), [(429, "rateLimited"), (403, "unauthorized")])
def test_a_paused_account_waits_for_a_person_who_is_told_where_to_go(
    lab: ProjectLab, scene: Broken, status: int, kind: str
) -> None:
    paused = problem(status, kind, PAUSED.format(name=scene.name, url=UNPAUSE))
    again = Answer(status, paused.body, paused.content_type, (("Retry-After", "3600"),))
    scene.proxy.on(NEW_ORDER, again, times=None)

    result, missing = issue(scene)

    assert "the CA has paused this account" in result.err
    assert f"visit {UNPAUSE};" in result.err, "the whole address, however long"
    assert (missing["state"], missing["renewal"]["next_try"]) == ("waiting", None)
    assert UNPAUSE in missing["renewal"]["error"]
    scene.program.run("renew", "--due", "--timeout", "1m")
    assert scene.proxy.count(NEW_ORDER) == 1, "no waiting ends this, and no asking"
    demand_mended(lab, scene)


def test_a_rate_limit_that_time_ends_is_waited_for(lab: ProjectLab, scene: Broken) -> None:
    limited = problem(
        429, "rateLimited", "too many certificates already issued, retry after 2026-11-22 09:00 UTC"
    )
    scene.proxy.on(NEW_ORDER, limited, times=None)

    _, missing = issue(scene)

    assert missing["state"] == "failed"
    assert missing["renewal"]["next_try"]
    demand_mended(lab, scene)


def refused_names(*names: str, kind: str = "rejectedIdentifier") -> list[dict[str, Any]]:
    return [
        {
            "type": f"urn:ietf:params:acme:error:{kind}",
            "detail": "on the list of high-risk names",
            "identifier": {"type": "dns", "value": name},
        }
        for name in names
    ]


def test_refused_names_are_told_apart_from_those_that_are_fine(lab: ProjectLab, scene: Broken) -> None:
    bad = f"bad.{scene.name}"
    answer = problem(403, "rejectedIdentifier", "some are not for us", subproblems=refused_names(bad))
    scene.proxy.on(NEW_ORDER, answer, times=None)

    result = scene.program.run("issue", scene.name, bad, "--json")

    assert result.status == 3
    assert f"{bad}: on the list of high-risk names (rejectedIdentifier)" in result.err
    assert f"The CA refuses {bad}, and says nothing against the other names" in result.err
    assert "--replace-names" in result.err
    assert scene.lineage(result.json)["state"] == "waiting"
    scene.proxy.calm()
    assert (
        scene.program.done("issue", scene.name, "--replace-names", "--json").json["protection"] == "protected"
    )
    assert lab.leftovers() == {}


def test_caa_that_forbids_the_ca_names_the_names_and_where_to_read_what_to_write(
    lab: ProjectLab, scene: Broken
) -> None:
    answer = problem(403, "caa", "CAA prevents issuance", subproblems=refused_names(scene.name, kind="caa"))
    scene.proxy.on(FINALIZE, answer, times=None)

    result, missing = issue(scene)

    assert f"Let the CAA records of {scene.name} allow this CA: `dualcert account show alpha`" in result.err
    assert missing["state"] == "failed"
    assert soon(missing)
    assert "alpha.lab.test" in scene.program.run("account", "show", "alpha").out
    assert [step for step, _ in scene.orders()] == ["abandoned"]
    demand_mended(lab, scene)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("badCSR", "another --key-type, fewer names"), ("badPublicKey", "The next order has another key")],
)
def test_a_request_that_the_ca_does_not_like_is_given_up_and_another_key_is_tried(
    lab: ProjectLab, scene: Broken, kind: str, words: str
) -> None:
    scene.proxy.on(FINALIZE, problem(400, kind, "not such a one"), times=None)

    result, missing = issue(scene)

    assert f"not such a one ({kind})" in result.err
    assert words in result.err
    assert missing["state"] == "failed"
    assert soon(missing)
    demand_mended(lab, scene)
    assert [step for step, _ in scene.orders()] == ["abandoned", "stored"]


@pytest.mark.parametrize("status", ["deactivated", "expired", "revoked"])
def test_an_authorization_that_is_over_is_made_up_for_by_a_new_order_at_once(
    lab: ProjectLab, scene: Broken, status: str
) -> None:
    over = {
        "status": status,
        "identifier": {"type": "dns", "value": scene.name},
        "expires": "2099-01-01T00:00:00Z",
        "challenges": [],
    }
    scene.proxy.on(AUTHORIZATION, Answer(200, json.dumps(over).encode(), "application/json"))

    assert scene.program.run("issue", scene.name).status == 0

    scene.demand_whole()
    assert scene.orders() == [
        ("abandoned", f"the authorization for {scene.name} is {status} by now"),
        ("stored", None),
    ]
    assert lab.leftovers() == {}


def test_an_authorization_that_is_gone_is_made_up_for_by_a_new_order_at_once(
    lab: ProjectLab, scene: Broken
) -> None:
    scene.proxy.on(AUTHORIZATION, problem(404, "malformed", "no such authorization"))

    assert scene.program.run("issue", scene.name).status == 0

    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["abandoned", "stored"]
    assert lab.leftovers() == {}


def test_an_order_that_expired_is_placed_anew_at_once(lab: ProjectLab, scene: Broken) -> None:
    document = {
        "status": "invalid",
        "expires": "2020-01-01T00:00:00Z",
        "identifiers": [{"type": "dns", "value": scene.name}],
        "authorizations": [f"{scene.proxy.url}/authZ/x"],
        "finalize": f"{scene.proxy.url}/finalize-order/x",
    }
    scene.proxy.on(ORDER, Answer(200, json.dumps(document).encode(), "application/json"))

    assert scene.program.run("issue", scene.name).status == 0

    scene.demand_whole()
    assert scene.orders() == [
        ("abandoned", "the order expired on 2020-01-01 00:00 UTC before it was finished"),
        ("stored", None),
    ]
    assert lab.leftovers() == {}


def test_a_profile_that_the_ca_does_not_offer_waits_for_a_person_and_nothing_is_ordered(
    lab: ProjectLab, scene: Broken
) -> None:
    config = scene.program.config
    whole = config.read_text()
    config.write_text(whole.replace('profile = "classic"\n', ""))
    say_in(config, "ca.alpha", 'profile = "tlsserver"')

    result, missing = issue(scene)

    assert "the CA offers no profile 'tlsserver'" in result.err
    assert "one of: classic, hour, shortlived" in result.err
    assert missing["state"] == "waiting"
    assert scene.proxy.count(NEW_ORDER) == 0
    config.write_text(whole)
    demand_mended(lab, scene)


def test_a_certificate_that_another_account_has_ordered_can_be_revoked_by_its_key(scene: Broken) -> None:
    """As after an account was lost, or replaced."""
    scene.program.done("issue", scene.name)
    scene.program.done("failover", scene.name)
    scene.program.done("account", "deactivate", "alpha", "--yes")
    scene.program.done("account", "register", "alpha")

    result = scene.program.run("revoke", scene.name, "--role", "backup", "--timeout", "10s")

    assert result.status == 3
    assert "(unauthorized)" in result.err
    assert "--reason keyCompromise" in result.err
    done = scene.program.run(
        "revoke", scene.name, "--role", "backup", "--reason", "keyCompromise", "--timeout", "10s"
    )
    assert done.status == 0, done


def test_a_ca_that_takes_no_signature_of_a_certificates_key_is_asked_by_the_account(scene: Broken) -> None:
    scene.program.done("issue", scene.name)
    scene.proxy.on("/revoke-cert", problem(400, "badPublicKey", "no such signer"), times=1)
    scene.program.done("failover", scene.name)

    scene.program.done(
        "revoke", scene.name, "--role", "backup", "--reason", "keyCompromise", "--timeout", "10s"
    )

    assert scene.proxy.count("/revoke-cert") == 2
    [cause] = [one["cause"] for one in scene.program.events(scene.name) if one["kind"] == "revoked"]
    assert "signed by the account because the CA refused the certificate's key" in cause
    assert "no such signer" in cause


NOT_REVOKED = problem(403, "unauthorized", "this certificate is not revoked")


def fail_over_unrevoked(scene: Broken) -> Any:
    """The CA refuses to revoke what served; its lineage is filled again. Returns what served."""
    served = scene.program.done("issue", scene.name, "--json").json["primary"]["certificate"]
    scene.proxy.on("/revoke-cert", NOT_REVOKED, times=None)
    assert scene.program.run("failover", scene.name, "--revoke", "--timeout", "10s").status == 3
    scene.program.run("renew", "--due", "--timeout", "1m")
    assert scene.program.show(scene.name)["protection"] == "protected"
    return served


def test_a_revocation_that_the_ca_refuses_keeps_no_other_one_waiting(scene: Broken) -> None:
    fail_over_unrevoked(scene)
    scene.proxy.calm()
    scene.proxy.on("/revoke-cert", NOT_REVOKED, times=1)

    result = scene.program.run("revoke", scene.name, "--role", "backup", "--timeout", "10s")

    assert result.status == 0, result
    assert scene.rows("SELECT count(*) FROM revocation_request") == [(1,)], "the refused one is tried again"
    [(tries, reason)] = scene.rows("SELECT attempts, reason FROM work WHERE kind = 'revocation'")
    assert tries == 2
    assert "this certificate is not revoked" in reason


def test_a_revocation_that_the_ca_refuses_is_given_up_when_its_certificate_has_expired(scene: Broken) -> None:
    """Else the failover that it belongs to would never be finished, and no other one could begin."""
    served = fail_over_unrevoked(scene)
    again = scene.program.run("failover", scene.name, "--timeout", "10s")
    assert again.status == 3, again
    change(
        scene.program,
        "UPDATE certificate SET not_after = stored_at WHERE sha256 = ?",
        bytes.fromhex(served["sha256"]),
    )

    scene.program.run("failover", scene.name, "--timeout", "10s")

    assert (
        scene.rows("SELECT kind FROM work")
        == scene.rows("SELECT certificate_id FROM revocation_request")
        == []
    )
    [cause] = [
        one["cause"]
        for one in scene.program.done("events", scene.name, "--json").lines
        if one["kind"] == "abandoned"
    ]
    assert "it has expired" in cause
    finished = scene.program.run("failover", scene.name)
    assert finished.status == 4, finished
    assert "and finished" in finished.err
