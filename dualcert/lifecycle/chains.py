"""Which chain a certificate is served with: chosen when it arrives, and replaced without an order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from dualcert.errors import CaError, CertificateUnfit, DualcertError, Refused, ResourceGone, UsageProblem
from dualcert.lifecycle import accounts, inspection
from dualcert.lifecycle.inspection import Arrival
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.events import EventKind
from dualcert.model.pair import Pair, Role
from dualcert.model.wording import typed
from dualcert.model.work import WorkKind
from dualcert.policy import pairing
from dualcert.policy.pairing import CertificateIdentity
from dualcert.ports.ca import IssuedCertificate
from dualcert.store import Transaction, certificates, chains, events, pairs, work

log = logging.getLogger(__name__)

AFTERMATH = (WorkKind.DEPLOYMENT, WorkKind.VERIFICATION)
"""What follows from another chain."""

_RACES = 10
_PAGE = 500


def root_of(pem: str) -> str:
    """The common name of who issued the last certificate of a PEM text; its whole name where it has none."""
    last = x509.load_pem_x509_certificates(pem.encode("ascii"))[-1]
    names = last.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else last.issuer.rfc4514_string()


# --- when a certificate arrives --------------------------------------------------------------------------


def preferred(world: World, ca: str, issued: IssuedCertificate) -> str:
    """The certificate with the chain to the root that the configuration prefers.

    A wish only: without such a chain the CA's default is taken, for the certificate is the same in all.
    """
    wanted = world.ca(ca).preferred_chain
    if wanted is None:
        return issued.default
    for pem in (issued.default, *issued.alternates):
        try:
            if root_of(pem) == wanted:
                return pem
        except ValueError:
            log.warning("CA %s sent a chain that cannot be read", ca, extra={"ca": ca})
    log.warning("CA %s offers no chain to %r; its default is taken", ca, wanted, extra={"ca": ca})
    return issued.default


def keep(tx: Transaction, number: int, issued: IssuedCertificate, arrival: Arrival) -> None:
    """Remember every chain of a certificate that has arrived. Most come with one, which it names itself."""
    if issued.alternates:
        chains.keep(tx, number, _chains(issued, arrival.der))


def _chains(issued: IssuedCertificate, leaf: bytes) -> list[str]:
    """The chains alone, of those texts that begin with this leaf."""
    found = []
    for pem in (issued.default, *issued.alternates):
        try:
            arrival = inspection.parse(pem)
        except CertificateUnfit as error:
            log.warning("a chain was not kept: %s", error.reason)
            continue
        if arrival.der == leaf:
            found.append(arrival.chain_pem)
    return found


# --- another chain, without an order ---------------------------------------------------------------------


@dataclass(frozen=True)
class Switched:
    """What became of a wish for a chain. ``before`` and ``now``: the roots that they lead to."""

    ca: str
    before: str
    now: str

    @property
    def changed(self) -> bool:
        return self.before != self.now


def switch(world: World, pair: Pair, role: Role, root: str | None) -> Switched | None:
    """Serve the certificate of a role with its chain to ``root`` (None: the configured one); what was and what is.

    None where there is no certificate, or nothing is configured. Chains that are not known yet are fetched from the CA.
    What follows from it is written as due work. Raises ``UsageProblem`` where the CA offers no such chain, ``Refused``
    where it must not be used, ``CaError``.
    """
    fetched = False
    for _ in range(_RACES):
        with world.store.read() as tx:
            subject = _certificate_of(tx, pair, role)
            kept = chains.known(tx, subject) if subject else {}
            leaf = certificates.der_of(tx, subject.id) if subject else b""
        wanted = root or (world.ca(subject.ca).preferred_chain if subject else None)
        if subject is None or wanted is None:
            return None
        roots = {pem: root_of(inspection.pem_of(leaf) + pem) for pem in kept.values()}
        before = roots[kept[subject.chain_hash]]
        found = next((pem for pem, name in roots.items() if name == wanted), None)
        if before == wanted:
            return Switched(subject.ca, before, before)
        if found is not None and _use(
            world, pair, subject, leaf, found, f"to {wanted!r} instead of {before!r}"
        ):
            return Switched(subject.ca, before, wanted)
        if found is None:
            if fetched:
                raise UsageProblem(
                    f"the CA offers no chain to {wanted!r} for this certificate",
                    remedy=f"There is: {', '.join(sorted(set(roots.values())))}.",
                    ca=subject.ca,
                    name=pair.name,
                )
            fetch(world, pair, subject)
            fetched = True
    raise AssertionError("the chain of a certificate changes all the time")


def _certificate_of(tx: Transaction, pair: Pair, role: Role) -> Certificate | None:
    state = pairs.state(tx, pair.id)
    number = state.serving if role is Role.PRIMARY else state.standby
    return None if number is None else certificates.get(tx, number)


def fetch(world: World, pair: Pair, subject: Certificate) -> None:
    """Ask the CA for all chains of a certificate that it has issued, and keep them. Raises ``CaError``."""
    with world.store.read() as tx:
        url = chains.order_url(tx, subject)
        leaf = certificates.der_of(tx, subject.id)
    try:
        client = accounts.authority(world, world.ca(subject.ca))
        place = client.order(url).certificate if url else None
        issued = client.certificate(place) if place else None
    except ResourceGone:
        issued = None
    found = _chains(issued, leaf) if issued else []
    if not found:
        raise CaError(
            "the CA does not hand this certificate out any more, so its other chains cannot be had",
            remedy=f"The next certificate comes with them; to have it now: dualcert renew {typed(pair.name)} --force",
            ca=subject.ca,
            name=pair.name,
        )
    with world.store.write() as tx:
        chains.keep(tx, subject.id, found)


def _use(world: World, pair: Pair, subject: Certificate, leaf: bytes, pem: str, cause: str) -> bool:
    arrival = inspection.parse(inspection.pem_of(leaf) + pem)
    found, root_key = inspection.flaws(
        arrival,
        spki=subject.spki,
        names=arrival.names,
        now=world.clock.now(),
        trust_roots=world.ca(subject.ca).trust_roots,
    )
    with world.store.write() as tx:
        pairs.lock(tx, [pair.id])
        found += _dependence(tx, subject, arrival, root_key)
        if found or root_key is None:
            raise Refused(
                f"with this chain the certificate must not be used: {'; '.join(found)}",
                remedy=f"Nothing was changed; see the others: dualcert chain {typed(pair.name)}",
                ca=subject.ca,
                name=pair.name,
            )
        if chains.use(tx, subject, pem, root_key) is None:
            return False
        kind = EventKind.CHAIN_REPLACED
        events.record(tx, kind, cause, pair=pair.id, ca=subject.ca, certificate=subject.id)
        if pairs.state(tx, pair.id).serving == subject.id:
            for target in pair.targets:
                work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target=target)
    return True


def _dependence(
    tx: Transaction, subject: Certificate, arrival: Arrival, root_key: bytes | None
) -> tuple[str, ...]:
    """What the certificate would then share with the pair's other one."""
    state = pairs.state(tx, subject.pair_id)
    siblings = {state.serving, state.standby} - {None, subject.id}
    mine = CertificateIdentity(subject.spki, arrival.issuing_key, root_key)
    found: list[str] = []
    for number in siblings:
        if number is not None:
            other = certificates.get(tx, number)
            theirs = CertificateIdentity(other.spki, other.issuing_key, other.root_key)
            found += pairing.certificate_objections(mine, theirs)
    return tuple(found)


# --- looking ---------------------------------------------------------------------------------------------


def describe(world: World, pair: Pair) -> dict[str, Any]:
    """The chains that are kept for a pair's certificates, in the shape that scripts rely on (``chain --json``)."""
    with world.store.read() as tx:
        return {"pair": pair.name, **{role.value: _described(world, tx, pair, role) for role in Role}}


def _described(world: World, tx: Transaction, pair: Pair, role: Role) -> dict[str, Any] | None:
    subject = _certificate_of(tx, pair, role)
    if subject is None:
        return None
    leaf = inspection.pem_of(certificates.der_of(tx, subject.id))
    ca = world.cas.get(subject.ca)
    return {
        "ca": subject.ca,
        "serial": subject.serial,
        "preferred": ca.preferred_chain if ca else None,
        "chains": [
            {
                "root": root_of(leaf + pem),
                "sha256": digest,
                "certificates": pem.count("-----BEGIN"),
                "in_use": digest == subject.chain_hash,
            }
            for digest, pem in chains.known(tx, subject).items()
        ],
    }


def all_pairs(world: World) -> Iterator[Pair]:
    """Every pair in the order of names, a page at a time."""
    after = ""
    while True:
        with world.store.read() as tx:
            found = pairs.page(tx, after=after, limit=_PAGE)
        yield from found
        if len(found) < _PAGE:
            return
        after = found[-1].name


def outstanding(world: World, ids: Sequence[int]) -> list[str]:
    """What is not finished of bringing chains to the targets of some pairs, a text each."""
    found = []
    for start in range(0, len(ids), _PAGE):
        with world.store.read() as tx:
            rows = work.of_pairs(tx, ids[start : start + _PAGE], AFTERMATH)
            names = pairs.names_of(tx, {row.pair_id for row in rows})
        found += [
            f"{names.get(row.pair_id)}, target {row.target}: {row.kind.value} is not finished: "
            f"{row.reason or 'under way'}"
            for row in rows
        ]
    return found


def switch_both(world: World, pair: Pair) -> tuple[list[Switched], list[DualcertError]]:
    """Bring both certificates of a pair to the chains that the configuration prefers; what failed, beside the rest."""
    done: list[Switched] = []
    failed: list[DualcertError] = []
    for role in Role:
        try:
            switched = switch(world, pair, role, None)
        except DualcertError as error:
            failed.append(error)
        else:
            done += [switched] if switched else []
    return done, failed
