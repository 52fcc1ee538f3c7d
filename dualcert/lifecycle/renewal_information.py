"""Asks CAs when they would like certificates to be renewed (RFC 9773), and takes in what they say.

What is to be asked has its own clock in ``renewal_info``. While something is due at a CA, one row of work stands for
that CA: it is the lease, so that nobody asks the same twice, and the back-off while the CA does not answer.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import timedelta

from cryptography import x509

from dualcert.errors import CaBusy, CaError, CaUnreachable
from dualcert.lifecycle import renewal
from dualcert.lifecycle.watching import turning, warnings
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.events import EventKind
from dualcert.model.signal import Turning
from dualcert.model.work import Done, Later, Outcome, WorkRow
from dualcert.policy import backoff, due, watching
from dualcert.policy.backoff import Failure
from dualcert.policy.due import Life, Window
from dualcert.ports.ca import RenewalInformation
from dualcert.store import Transaction, events, pairs, renewal_info, work
from dualcert.store.renewal_info import Subject

_BATCH = 25
_WINDOW = 200
"""Of how many that are due those are chosen."""

_LONGEST = timedelta(seconds=10)
"""How long one step may take before what was learnt is written down."""

_FAILURES = 3
"""After so many failures of a batch the CA is left alone for a while; one certificate alone may be its trouble."""

_UNDECIDED = timedelta(minutes=1)
"""After which a CA is asked again whose warning nobody has decided on."""

Told = RenewalInformation | CaError | None


# --- a certificate arrives -------------------------------------------------------------------------------


def identifier(leaf: x509.Certificate) -> str | None:
    """Names a certificate to its CA (RFC 9773 section 4.1): who signed it, and its serial number as in its DER.

    None where it does not say which key signed it.
    """
    try:
        extension = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    signer = extension.value.key_identifier
    if signer is None:
        return None
    # DER numbers have a sign: where the first bit is set, a zero byte stands before it.
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1, "big")
    return f"{_base64url(signer)}.{_base64url(serial)}"


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def begin(world: World, tx: Transaction, arrived: Certificate, number: int, leaf: x509.Certificate) -> None:
    """A certificate has taken its lineage's role: when it is renewed by its life, and when its CA is first asked."""
    life = Life(arrived.not_before, arrived.not_after, tx.now)
    life_at = due.by_life(life, world.draw())
    ari_id = identifier(leaf)
    if ari_id is None:
        renewal_info.forget(tx, arrived.pair_id, arrived.ca)
    else:
        renewal_info.remember(
            tx,
            certificate_id=number,
            pair_id=arrived.pair_id,
            ca=arrived.ca,
            ari_id=ari_id,
            life_at=life_at,
            check_at=due.first_ask(tx.now, life, world.draw()),
        )
    pairs.set_renew_at(tx, arrived.lineage_id, life_at)


# --- asking ----------------------------------------------------------------------------------------------


def ask(world: World, row: WorkRow) -> Outcome:
    """Ask a CA about some of the certificates that are due to be asked about."""
    if row.ca not in world.cas:
        # Whoever has it configured asks it, as soon as something is due there.
        with world.store.write() as tx:
            work.hold(tx, row)
            work.finish(tx, row)
        return Done()
    with world.store.read() as tx:
        waiting, stale = renewal_info.due(tx, row.ca, _WINDOW)
        now = tx.now
    # Where more is due than can be asked, each hour in which the CA has issued is asked about first.
    subjects = watching.sampled(waiting, lambda one: one.life.not_before.replace(minute=0, second=0), _BATCH)
    told, trouble = _ask_all(world, row.ca, subjects)
    warned: list[Turning] = []
    kept: list[tuple[Subject, RenewalInformation]] = []
    with world.store.write() as tx:
        work.hold(tx, row)
        pairs.lock(tx, {subject.pair_id for subject, _ in told})
        for number in stale:
            renewal_info.stop_asking(tx, number)
        for subject, answer in told:
            _take_in(world, tx, subject, answer)
            if not isinstance(answer, RenewalInformation):
                continue
            if found := warnings.heed(world, tx, subject, answer):
                warned += found
                kept.append((subject, answer))
                # Until that is decided: whoever is at it may die, or be kept from it.
                renewal_info.ask_again(tx, subject.certificate_id, tx.now + _UNDECIDED)
        finished = trouble is None and not renewal_info.cas_due(tx, [row.ca])
        if finished:
            work.finish(tx, row)
    if not turning.decide(world, warned, early=True).postponed:
        _decided(world, kept)
    if finished:
        return Done()
    if trouble is None:
        return Later(world.clock.now(), "there are more certificates to ask about")
    failure = Failure(now, row.attempts, row.since, world.draw())
    at = backoff.after_failure(world.clock.now(), failure, passing=False, wished=trouble.retry_after)
    return Later(at, str(trouble), failed=True)


def _decided(world: World, kept: Sequence[tuple[Subject, RenewalInformation]]) -> None:
    """The CA is asked about them when it wishes."""
    if not kept:
        return
    with world.store.write() as tx:
        for subject, told in kept:
            at = due.next_ask(tx.now, subject.life.not_after, told.retry_after)
            renewal_info.ask_again(tx, subject.certificate_id, at)


def _ask_all(
    world: World, ca: str, subjects: Sequence[Subject]
) -> tuple[list[tuple[Subject, Told]], CaError | None]:
    """What the CA said of each; and its trouble, where it is better left alone for a while."""
    client = world.ca(ca).authority()
    told: list[tuple[Subject, Told]] = []
    failures = 0
    until = world.clock.now() + _LONGEST
    for subject in subjects:
        if world.clock.now() >= until:
            break
        try:
            told.append((subject, client.renewal_info(subject.ari_id)))
            failures = 0
        except CaError as error:
            told.append((subject, error))
            failures += 1
            if isinstance(error, CaUnreachable | CaBusy) or failures >= _FAILURES:
                return told, error
    return told, None


def _take_in(world: World, tx: Transaction, subject: Subject, told: Told) -> None:
    match told:
        case None if subject.known is not None:
            # It has answered before: what is missing in its directory today may be there again tomorrow.
            at = due.next_ask(tx.now, subject.life.not_after, timedelta(days=1))
            renewal_info.failed(tx, subject, "the CA's directory offers no renewal information any more", at)
        case None:
            renewal_info.stop_asking(tx, subject.certificate_id)
        case CaError():
            at = due.ask_after_failure(
                tx.now, subject.life.not_after, subject.failures, world.draw(), told.retry_after
            )
            renewal_info.failed(tx, subject, told.reason, at)
        case RenewalInformation():
            _follow(world, tx, subject, told)


def _follow(world: World, tx: Transaction, subject: Subject, told: RenewalInformation) -> None:
    """The CA has answered: where that moves the renewal, the pair's clock moves, or the order is opened at once."""
    said = due.suggestion(Window(told.start, told.end, told.explanation), subject.known, world.draw())
    again = due.next_ask(tx.now, subject.life.not_after, told.retry_after)
    if not renewal_info.answered(tx, subject, said, again):
        return
    decided = due.renewal(subject.life, subject.life_at, said)
    if decided.at == subject.renew_at:
        return
    pairs.set_renew_at(tx, subject.lineage_id, decided.at)
    events.record(
        tx,
        EventKind.RENEWAL_SUGGESTED,
        f"between {told.start:%Y-%m-%d %H:%M} and {told.end:%Y-%m-%d %H:%M} UTC"
        + (f" ({told.explanation})" if told.explanation else "")
        + f"; it is renewed at {decided.at:%Y-%m-%d %H:%M} UTC, because {decided.reason}",
        pair=subject.pair_id,
        ca=subject.ca,
        certificate=subject.certificate_id,
    )
    renewal.consider(tx, [subject.pair_id])
