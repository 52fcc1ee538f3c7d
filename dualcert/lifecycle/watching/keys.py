"""Looking at the key of every certificate that has not ended, when a person wants it: by what is known today."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509

from dualcert.errors import ConfigurationError
from dualcert.lifecycle import weakkeys
from dualcert.lifecycle.watching import places, suspicion
from dualcert.lifecycle.world import World
from dualcert.model.signal import Suspect, Turning
from dualcert.store import census, living

_PAGE = 500


@dataclass
class Looked:
    """What it came to. ``turnings``: pairs that serve with a weak key, not decided on yet; ``authorities``: CAs'
    certificates whose keys are weak, in words."""

    keys: int = 0
    weak: int = 0
    turnings: list[Turning] = field(default_factory=list)
    authorities: list[str] = field(default_factory=list)


def look_at_all(world: World, progress: Callable[[int], None] = lambda _: None) -> Looked:
    """Look at every key, some at a time; ``progress`` is told how many there were so far.

    What is found is written down as it is found. Raises ``ConfigurationError`` where nothing is installed to look with.
    """
    if world.inspector() is None:
        raise ConfigurationError(
            "badkeys is not installed, and nothing else looks for weak keys",
            remedy="Install it: pip install 'dualcert[badkeys]'.",
        )
    looked = Looked(authorities=_authorities(world))
    source, after = weakkeys.source(world), 0
    while True:
        with world.store.read() as tx:
            page = living.page(tx, after, _PAGE)
        if not page:
            return looked
        after = page[-1].id
        suspects: list[Suspect] = []
        for one in page:
            found = weakkeys.of_certificate(world, x509.load_der_x509_certificate(one.der))
            if found:
                suspects.append(weakkeys.suspect_of(found, one.id, one.pair_id, one.ca, one.spki))
        looked.keys += len(page)
        looked.weak += len(suspects)
        looked.turnings += suspicion.weak(world, suspects, source)
        progress(looked.keys)


def _authorities(world: World) -> list[str]:
    with world.store.read() as tx:
        kept = census.chains(tx)
    found = {}
    for one in {one for pem in kept.values() for one in places.parsed(pem)}:
        weak = weakkeys.of_certificate(world, one)
        if weak:
            name = one.subject.rfc4514_string()
            found[name] = f"the key of the CA's certificate {name} is weak: {weakkeys.told(world, weak)}"
    return [found[name] for name in sorted(found)]
