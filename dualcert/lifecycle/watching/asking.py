"""Asking the places where CAs say what they have revoked: each CRL once for all certificates, a responder for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509

from dualcert.errors import EvidenceError
from dualcert.lifecycle import inspection
from dualcert.lifecycle.watching import places, suspicion, turning
from dualcert.lifecycle.watching.rounds import Round, Told
from dualcert.lifecycle.world import World
from dualcert.model.signal import Suspect, Turning
from dualcert.policy import watching as policy
from dualcert.policy.watching import SourceKind
from dualcert.ports.evidence import Crl, KnownCrl, OcspAnswer, OcspStatus
from dualcert.store import Transaction, census, certificates, chains, watch_answers, watching
from dualcert.store.watch_answers import Question
from dualcert.store.watching import MATCHED_AT_ONCE, Match, Source

_APART = timedelta(minutes=90)
_PAGE = 1000
_CANDIDATES = 2000
_QUESTIONS = 200
"""How many certificates one responder is asked about in a row, out of so many that are due."""

_LONGEST = timedelta(seconds=30)
_FAILURES = 3
_FAR = timedelta(days=3650)
_POSTPONED = timedelta(minutes=1)
_AT_ONCE = timedelta(seconds=10)
"""So soon a responder is asked the rest of what is due."""

_TOGETHER = 10.0
"""Seconds for which what was found waits for what others say: they may be hanging for hours."""

_ROUND = 60.0


@dataclass
class _Answer:
    """What a source said: what is to be written of it, and the pairs that must be decided on before that.

    ``due_at``: when it is asked again; None where that goes by what it watches.
    ``answered``: certificates that such a pair serves, and when a responder is to be asked about them again.
    """

    due_at: datetime | None
    values: dict[str, Any]
    turnings: list[Turning] = field(default_factory=list)
    suspects: int = 0
    unasked: int = 0
    problem: bool = False
    answered: list[tuple[Question, datetime]] = field(default_factory=list)


def ask_due(
    world: World, *, all_of_them: bool = False, found: Sequence[Turning] = (), done: Round | None = None
) -> Round:
    """Ask every source that is due, for a minute, or all there are, each once; and decide for what was found within
    some seconds together, with what was ``found`` elsewhere.

    A source that told of a serving certificate is settled only when that was decided: whatever happens between, it is
    asked again and tells it again. ``done``: what a round that was cut off had come to; this one adds to it, because
    what was decided is told by nobody again.
    """
    done = Round() if done is None else done
    after = 0 if all_of_them else None
    pending = _Pending(list(found))
    began = since = world.clock.monotonic()
    while (source := _claim(world, after)) is not None:
        after = None if after is None else source.id
        answer = _ask(world, source, all_of_them)
        done.tell(source.id, Told(answer.problem, answer.suspects, answer.unasked))
        now = world.clock.monotonic()
        if answer.turnings:
            since = since if pending.turnings else now
            pending.turnings += answer.turnings
            pending.kept.append((source, answer))
        else:
            _settle(world, source, answer)
        if pending.turnings and now >= since + _TOGETHER:
            _decide(world, pending, done)
            pending = _Pending()
        if after is None and now >= began + _ROUND:
            break  # what fails is due again in a minute: one that goes on until nothing is due may never end
    _decide(world, pending, done)
    return done


@dataclass
class _Pending:
    """What was found and is not decided yet, and what is to be written of the sources that told it."""

    turnings: list[Turning] = field(default_factory=list)
    kept: list[tuple[Source, _Answer]] = field(default_factory=list)


def _decide(world: World, pending: _Pending, done: Round) -> None:
    decided = turning.decide(world, pending.turnings)
    done.decided += decided  # before anything else is written: the database may go away
    for source, answer in pending.kept:
        if decided.postponed:
            _ask_again(world, source)
        else:
            _settle(world, source, answer)


def _claim(world: World, after: int | None) -> Source | None:
    with world.store.write() as tx:
        return watching.claim(tx, after)


def _settle(world: World, source: Source, answer: _Answer) -> None:
    if answer.answered:
        with world.store.write() as tx:
            for question, due_at in answer.answered:
                watch_answers.answered(tx, source, question, due_at, None)
    with world.store.write() as tx:
        at = answer.due_at or _due_by_what_it_watches(tx, source)
        watching.settle(tx, source, at, **answer.values)


def _due_by_what_it_watches(tx: Transaction, source: Source) -> datetime | None:
    """None where it watches nothing any more. What has begun to be watched since it was asked is not passed over."""
    watching.hold(tx, source)
    if source.kind is not SourceKind.OCSP:
        return tx.now if watch_answers.how_many(tx, source.id, 1) else None
    at = watch_answers.next_due(tx, source)
    return None if at is None else max(at, tx.now + _AT_ONCE)


def _ask_again(world: World, source: Source) -> None:
    """Nothing was decided: it is to tell everything once more."""
    with world.store.write() as tx:
        watching.settle(tx, source, tx.now + _POSTPONED)


def _ask(world: World, source: Source, every_question: bool) -> _Answer:
    with world.store.write() as tx:
        if not watching.watches_current(tx, source):
            watching.drop_past(tx, source)
            return _Answer(None, {"problem": None, "failures": 0})
        issuer = places.issuer_of(world, tx, source)
    if issuer is None:
        return _failure(world, source, "the certificate of the CA that signs there is not known")
    try:
        if source.kind is SourceKind.OCSP:
            return _ask_responder(world, source, issuer, every_question)
        return _ask_list(world, source, issuer)
    except EvidenceError as error:
        return _failure(world, source, error.reason)


def _failure(world: World, source: Source, problem: str) -> _Answer:
    """It is blind from here on, whatever it said before."""
    at = policy.after_failure(world.clock.now(), source.failures, world.draw())
    return _Answer(at, {"problem": problem, "failures": source.failures + 1}, problem=True)


# --- lists -----------------------------------------------------------------------------------------------


def _ask_list(world: World, source: Source, issuer: bytes) -> _Answer:
    now = world.clock.now()
    # What was read with a problem is asked for anew: "not modified" would only repeat it.
    known = source.problem is None and source.good_at is not None
    asked = KnownCrl(
        source.etag if known else None,
        source.modified if known else None,
        source.number,
        source.this_update,
    )
    of_cas = source.kind is SourceKind.CRL_OF_CAS
    crl = world.evidence().crl(source.place, issuer, asked, now, of_cas=of_cas)
    values: dict[str, Any] = {"problem": None, "failures": 0, "good_at": now}
    at = policy.next_crl(now, world.draw())
    if crl is None:
        if source.next_update is not None and source.next_update < now - _APART:
            return _failure(world, source, f"it is stale since {source.next_update:%Y-%m-%d %H:%M} UTC")
        return _Answer(at, values)
    values |= {
        "etag": crl.etag,
        "modified": crl.modified,
        "number": crl.number,
        "this_update": crl.this_update,
        "next_update": crl.next_update,
        "digest": crl.digest,
    }
    if known and crl.digest == source.digest:
        return _Answer(at, values)
    walk = _walk_of_cas if of_cas else _walk
    entries, suspects, turnings = walk(world, source, crl)
    return _Answer(at, {**values, "entries": entries}, turnings, suspects)


def _walk(world: World, source: Source, crl: Crl) -> tuple[int, int, list[Turning]]:
    """Every entry is looked at once and matched in the database: how many there are, and what became of ours."""
    entries = suspects = 0
    turnings: list[Turning] = []
    for serials, positions in crl.batches(MATCHED_AT_ONCE):
        entries += len(serials)
        with world.store.read() as tx:
            matches = watching.matching(tx, source, serials)
        if matches:
            where = dict(zip(serials, positions, strict=True))
            found = [_listed(crl, source, one, where[one.serial]) for one in matches]
            suspects += len(found)
            turnings += suspicion.revoked(world, found, _named(source))
    return entries, suspects, turnings


def _named(source: Source) -> str:
    return f"{'OCSP' if source.kind is SourceKind.OCSP else 'CRL'} {source.place}"


def _listed(crl: Crl, source: Source, match: Match, position: int) -> Suspect:
    entry = crl.entry(position)
    return Suspect(
        certificate_id=match.id,
        pair_id=match.pair_id,
        ca=match.ca,
        spki=match.spki,
        reason=entry.reason,
        evidence=f"serial {match.serial.hex()} is revoked since {entry.since:%Y-%m-%d %H:%M:%S} UTC",
        since=entry.since,
        url=source.place,
    )


def _walk_of_cas(world: World, source: Source, crl: Crl) -> tuple[int, int, list[Turning]]:
    """The same for certificates of CAs: where one is revoked, all that are served with it have lost their chain."""
    with world.store.read() as tx:
        kept = census.chains(tx)
    mine: dict[bytes, list[x509.Certificate]] = {}
    for pem in kept.values():
        for one in places.parsed(pem):
            if places.name_hash(one.issuer) == source.issuer_hash:
                mine.setdefault(inspection.serial_bytes(one.serial_number), []).append(one)
    entries, bad = 0, {}
    for serials, positions in crl.batches(MATCHED_AT_ONCE):
        entries += len(serials)
        for serial, position in zip(serials, positions, strict=True):
            if serial in mine:
                bad[serial] = crl.entry(position)
    lost = {
        digest: (one, bad[inspection.serial_bytes(one.serial_number)])
        for digest, pem in kept.items()
        for one in places.parsed(pem)
        if places.name_hash(one.issuer) == source.issuer_hash
        and inspection.serial_bytes(one.serial_number) in bad
    }
    if not lost:
        return entries, 0, []
    return entries, *_all_under(world, source, lost)


def _all_under(world: World, source: Source, lost: dict[bytes, Any]) -> tuple[int, list[Turning]]:
    suspects, after = 0, 0
    turnings: list[Turning] = []
    while True:
        with world.store.read() as tx:
            page = watching.under(tx, source, after, _PAGE)
            others = chains.offered(tx, [match.id for match, _ in page])
        if not page:
            return suspects, turnings
        after = page[-1][0].id
        gone: list[Suspect] = []
        warned: list[Suspect] = []
        for match, digest in page:
            if digest in lost:
                # What another chain leads to a root is not lost: a person may serve it with that one.
                spared = bool(others.get(match.id, set()) - lost.keys())
                (warned if spared else gone).append(_orphan(match, source, *lost[digest]))
        suspects += len(gone) + len(warned)
        turnings += suspicion.revoked(world, gone, _named(source))
        suspicion.warned(world, warned, _named(source))


def _orphan(match: Match, source: Source, authority: x509.Certificate, entry: Any) -> Suspect:
    serial = inspection.serial_bytes(authority.serial_number).hex()
    return Suspect(
        certificate_id=match.id,
        pair_id=match.pair_id,
        ca=match.ca,
        spki=match.spki,
        reason="cACompromise" if entry.reason in {"keyCompromise", "cACompromise"} else entry.reason,
        evidence=f"the certificate of its CA, serial {serial}, is revoked since {entry.since:%Y-%m-%d %H:%M:%S} UTC",
        since=entry.since,
        url=source.place,
    )


# --- responders ------------------------------------------------------------------------------------------


def _ask_responder(world: World, source: Source, issuer: bytes, every_question: bool) -> _Answer:
    began = world.clock.now()
    with world.store.write() as tx:
        found = watch_answers.questions(tx, source, began + _FAR if every_question else began, _CANDIDATES)
        for one in found:
            if not one.current:
                watching.unwatch(tx, one.match.id)
    current = [one for one in found if one.current]
    chosen = policy.sampled(current, lambda one: (one.match.ca, one.hour), _QUESTIONS)
    answer = _Answer(None, {})
    asked, failures, trouble = 0, 0, None
    for question in chosen:
        if world.clock.now() > began + _LONGEST or failures >= _FAILURES:
            break
        problem = _ask_about(world, source, issuer, question, answer)
        failures = failures + 1 if problem else 0
        trouble = problem or trouble
        asked += 1
    answer.unasked = len(current) - asked
    now = world.clock.now()
    if failures and failures == min(asked, _FAILURES):
        failed = _failure(world, source, trouble or "")
        failed.turnings, failed.answered = answer.turnings, answer.answered
        failed.suspects, failed.unasked = answer.suspects, answer.unasked
        return failed
    if asked:  # one that was asked about nothing has said nothing, and is what it was
        answer.values = {"problem": None, "failures": 0, "good_at": now}
    return answer


def _ask_about(
    world: World, source: Source, issuer: bytes, question: Question, answer: _Answer
) -> str | None:
    """Ask about one certificate; what is wrong with the answer, None where it counts."""
    with world.store.read() as tx:
        der = certificates.der_of(tx, question.match.id)
    now = world.clock.now()
    problem: str | None = None
    told: OcspAnswer | None = None
    try:
        told = world.evidence().ocsp(source.place, issuer, der, now)
    except EvidenceError as error:
        problem = error.reason
    if told is not None and told.status is OcspStatus.UNKNOWN:
        problem = "the responder does not know the certificate"
    found: list[Turning] = []
    if told is not None and told.status is OcspStatus.REVOKED:
        suspect = _told_revoked(source, question.match, told)
        answer.suspects += 1
        found = suspicion.revoked(world, [suspect], _named(source))
        answer.turnings += found
    due = (
        policy.after_failure(now, question.failures, world.draw())
        if problem or told is None
        else policy.next_ocsp(now, told.this_update, told.next_update, world.draw())
    )
    if found:
        answer.answered.append((question, due))
        return None
    with world.store.write() as tx:
        watch_answers.answered(tx, source, question, due, problem)
    return problem


def _told_revoked(source: Source, match: Match, told: OcspAnswer) -> Suspect:
    since = told.since
    when = f" since {since:%Y-%m-%d %H:%M:%S} UTC" if since is not None else ""
    return Suspect(
        certificate_id=match.id,
        pair_id=match.pair_id,
        ca=match.ca,
        spki=match.spki,
        reason=told.reason,
        evidence=f"serial {match.serial.hex()} is revoked{when}",
        since=since,
        url=source.place,
    )
