"""The conformance suites of key protectors (``dualcert.ports.keys``).

A protector that can replace its KEK by itself is held to ``RotatingKeyProtectorConformance``, any other to
``KeyProtectorConformance``.
"""

from __future__ import annotations

import hashlib
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dualcert.errors import KeyProblem, KeyUnreadable
from dualcert.ports.keys import PURPOSES, KeyContext, KeyProtector, RotatingKeyProtector, rotation_of

_DOMAIN = "primary"
_THREADS = 8


class KeyProtectorConformance(ABC):
    """What every key protector must do. A plugin passes it by a subclass that gives ``protector`` and ``kek``."""

    plugin: ClassVar[type[Any]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        above = cls.__mro__[1:]
        replaced = sorted(
            name
            for name in vars(cls)
            if name.startswith("test_") and any(name in vars(base) for base in above)
        )
        if replaced:
            raise TypeError(f"a conformance test cannot be replaced: {', '.join(replaced)}")

    # --- what the subclass gives --------------------------------------------------------------------------

    @abstractmethod
    def protector(self, domain: str, kek: int) -> KeyProtector:
        """A new protector of that domain, as in another process; the same number means the same KEK."""

    @abstractmethod
    def kek(self, kek: int) -> bytes | None:
        """The bytes of that KEK, or None where the protector itself never sees it."""

    # --- round trip ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 241, 1704, 65536])
    def test_what_was_wrapped_opens_again(self, length: int) -> None:
        secret = bytes(n % 251 for n in range(length))
        wrapped = self._protector().wrap(secret, _context())
        assert self._protector().unwrap(wrapped, _context()) == secret

    @pytest.mark.parametrize("purpose", PURPOSES)
    def test_a_key_of_any_purpose_opens_as_one(self, purpose: str) -> None:
        context = _context(purpose=purpose)
        assert self._protector().unwrap(self._protector().wrap(_KEY, context), context) == _KEY

    def test_two_wraps_of_one_secret_differ(self) -> None:
        protector = self._protector()
        assert len({protector.wrap(_KEY, _context()) for _ in range(50)}) == 50

    def test_a_wrapped_key_does_not_show_what_is_in_it(self) -> None:
        wrapped = self._protector().wrap(_KEY, _context())
        assert not [n for n in range(0, len(_KEY) - 8, 8) if _KEY[n : n + 8] in wrapped]

    # --- refusals -----------------------------------------------------------------------------------------

    def test_a_change_of_any_byte_is_noticed(self) -> None:
        protector = self._protector()
        wrapped = protector.wrap(_KEY, _context())
        for position in range(len(wrapped)):
            for bit in (0x01, 0x80):
                changed = bytearray(wrapped)
                changed[position] ^= bit
                _refused(lambda changed=changed: protector.unwrap(bytes(changed), _context()))  # type: ignore[misc]

    def test_what_was_cut_or_made_longer_does_not_open(self) -> None:
        protector = self._protector()
        wrapped = protector.wrap(_KEY, _context())
        for length in range(len(wrapped)):
            _refused(lambda length=length: protector.unwrap(wrapped[:length], _context()))  # type: ignore[misc]
        _refused(lambda: protector.unwrap(wrapped + b"\0", _context()))

    def test_parts_of_two_wrapped_keys_do_not_open_together(self) -> None:
        protector = self._protector()
        one, other = protector.wrap(_KEY, _context()), protector.wrap(_KEY, _context())
        for position in range(1, len(one)):
            mixed = one[:position] + other[position:]
            if mixed not in (one, other):
                _refused(lambda mixed=mixed: protector.unwrap(mixed, _context()))  # type: ignore[misc]

    @pytest.mark.parametrize(
        "context",
        [
            KeyContext(_DOMAIN, "cd" * 32, "certificate"),
            KeyContext("backup", "ab" * 32, "certificate"),
            KeyContext(_DOMAIN + "ab", "ab" * 31, "certificate"),
            KeyContext(_DOMAIN, "ab" * 32 + "c", "ertificate"),
        ],
        ids=["subject", "domain", "domain-subject", "subject-purpose"],
    )
    def test_another_context_does_not_open(self, context: KeyContext) -> None:
        wrapped = self._protector().wrap(_KEY, _context())
        _refused(lambda: self._protector().unwrap(wrapped, context))
        _refused(lambda: self.protector(context.domain, 1).unwrap(wrapped, context))

    @pytest.mark.parametrize(("purpose", "other"), list(permutations(PURPOSES, 2)))
    def test_a_key_of_one_purpose_does_not_open_as_one_of_another(self, purpose: str, other: str) -> None:
        wrapped = self._protector().wrap(_KEY, _context(purpose=purpose))
        _refused(lambda: self._protector().unwrap(wrapped, _context(purpose=other)))

    def test_another_kek_does_not_open(self) -> None:
        wrapped = self._protector().wrap(_KEY, _context())
        error = _refused(lambda: self.protector(_DOMAIN, 2).unwrap(wrapped, _context()))
        assert _DOMAIN in error.reason
        assert self.protector(_DOMAIN, 2).key_id in error.reason
        assert error.remedy

    def test_another_domain_s_key_is_not_wrapped(self) -> None:
        with pytest.raises(KeyProblem):
            self._protector().wrap(_KEY, KeyContext("backup", "ab" * 32))

    # --- the key's id -------------------------------------------------------------------------------------

    def test_the_id_names_the_kek_and_tells_nothing(self) -> None:
        key_id = self._protector().key_id
        assert key_id
        assert key_id == self._protector().key_id
        assert key_id != self.protector(_DOMAIN, 2).key_id
        kek = self.kek(1)
        if kek is not None:
            assert key_id not in kek.hex()
            assert not hashlib.sha256(kek).hexdigest().startswith(key_id)

    # --- hiding -------------------------------------------------------------------------------------------

    def test_nothing_that_is_shown_holds_a_key(self) -> None:
        protector = self._protector()
        wrapped = protector.wrap(_KEY, _context())
        shown = [repr(protector), str(protector), repr(_context())]
        for opener, context in (
            (protector, _context(purpose="account")),
            (self.protector(_DOMAIN, 2), _context()),
        ):
            with pytest.raises(KeyUnreadable) as caught:
                opener.unwrap(wrapped, context)
            shown += [str(caught.value), repr(vars(caught.value)), *traceback.format_exception(caught.value)]
        shown += [str(error) for error in [_refused(lambda: protector.unwrap(_KEY, _context()))]]
        secrets = [_KEY, *(kek for kek in (self.kek(1), self.kek(2)) if kek is not None)]
        for secret in secrets:
            for form in (secret.hex(), repr(secret)[2:-1], secret.decode("latin-1")):
                assert not [text for text in shown if form in text]

    # --- what it can besides ------------------------------------------------------------------------------

    def test_what_can_replace_its_kek_passes_the_suite_of_those_that_can(self) -> None:
        if rotation_of(self._protector()) is not None:
            assert isinstance(self, RotatingKeyProtectorConformance)

    # --- threads ------------------------------------------------------------------------------------------

    def test_many_threads_share_one_protector(self) -> None:
        protector = self._protector()

        def trip(number: int) -> bool:
            context = _context(subject=f"{number:064x}")
            secret = b"%d" % number
            return protector.unwrap(protector.wrap(secret, context), context) == secret

        with ThreadPoolExecutor(_THREADS) as pool:
            assert all(pool.map(trip, range(500)))

    def _protector(self) -> KeyProtector:
        return self.protector(_DOMAIN, 1)


class RotatingKeyProtectorConformance(KeyProtectorConformance):
    """What every key protector must do that can replace its KEK (``dualcert.ports.keys.RotatingKeyProtector``).

    Here ``kek`` numbers what is configured: after a replacement ``protector(domain, 1)`` is one that another process
    makes from the same configuration.
    """

    # --- replacing ----------------------------------------------------------------------------------------

    def test_a_new_kek_wraps_and_the_old_one_still_opens(self) -> None:
        protector = self._rotating()
        before, wrapped = protector.key_id, protector.wrap(_KEY, _context())

        now = protector.new_kek()

        assert now == protector.key_id != before
        assert protector.older_keks() == (before,)
        assert protector.unwrap(wrapped, _context()) == _KEY
        assert protector.unwrap(protector.wrap(_KEY, _context()), _context()) == _KEY

    def test_a_process_that_starts_afterwards_wraps_under_the_new_one_and_opens_both(self) -> None:
        protector = self._rotating()
        old = protector.wrap(_KEY, _context())
        before = protector.key_id
        now = protector.new_kek()
        new = protector.wrap(_KEY, _context())

        later = self._rotating()

        assert (later.key_id, later.older_keks()) == (now, (before,))
        assert [later.unwrap(one, _context()) for one in (old, new)] == [_KEY, _KEY]

    def test_a_process_that_runs_finds_the_new_one_by_itself(self) -> None:
        running, other = self._rotating(), self._rotating()
        old = running.wrap(_KEY, _context())
        now = other.new_kek()

        assert running.unwrap(other.wrap(_KEY, _context()), _context()) == _KEY
        assert running.unwrap(old, _context()) == _KEY
        other.drop_kek(other.older_keks()[0], lambda: True)
        assert other.unwrap(running.wrap(_KEY, _context()), _context()) == _KEY
        assert running.key_id == now

    def test_it_is_replaced_again_and_all_of_them_open(self) -> None:
        protector = self._rotating()
        wrapped = [protector.wrap(_KEY, _context())]
        ids = [protector.key_id]
        for _ in range(3):
            ids.append(protector.new_kek())
            wrapped.append(protector.wrap(_KEY, _context()))
        assert len(set(ids)) == 4
        assert sorted(protector.older_keks()) == sorted(ids[:3])
        assert {self._rotating().unwrap(one, _context()) for one in wrapped} == {_KEY}

    # --- preparing, for several machines ------------------------------------------------------------------

    def test_one_that_is_prepared_wraps_nothing_until_it_is_taken(self) -> None:
        protector = self._rotating()
        before = protector.key_id
        assert protector.next_kek() is None

        coming = protector.prepare_kek()

        assert protector.prepare_kek() == coming == self._rotating().next_kek() == protector.next_kek()
        assert (protector.key_id, protector.older_keks()) == (before, ())
        assert self._rotating().new_kek() == coming == protector.key_id
        assert (protector.next_kek(), protector.older_keks()) == (None, (before,))

    def test_one_that_is_prepared_is_another_than_the_one_that_wraps_and_all_before(self) -> None:
        protector = self._rotating()
        ids = [protector.key_id]
        for _ in range(3):
            ids.append(protector.prepare_kek())
            protector.new_kek()
        assert len(set(ids)) == 4

    # --- dropping -----------------------------------------------------------------------------------------

    def test_a_dropped_one_opens_nothing_any_more(self) -> None:
        protector = self._rotating()
        before, wrapped = protector.key_id, protector.wrap(_KEY, _context())
        protector.new_kek()

        assert protector.drop_kek(before, lambda: True)

        assert protector.older_keks() == ()
        for opener in (protector, self._rotating()):
            error = _refused(lambda opener=opener: opener.unwrap(wrapped, _context()))  # type: ignore[misc]
            assert before in error.reason
        assert protector.drop_kek(before, lambda: True), "gone already is gone"

    def test_one_that_is_needed_is_not_dropped(self) -> None:
        protector = self._rotating()
        before, wrapped = protector.key_id, protector.wrap(_KEY, _context())
        protector.new_kek()

        assert not protector.drop_kek(before, lambda: False)

        assert protector.older_keks() == (before,)
        assert self._rotating().unwrap(wrapped, _context()) == _KEY

    def test_the_one_that_wraps_is_not_dropped(self) -> None:
        protector = self._rotating()
        wrapped = protector.wrap(_KEY, _context())
        with pytest.raises(KeyProblem):
            protector.drop_kek(protector.key_id, lambda: True)
        assert self._rotating().unwrap(wrapped, _context()) == _KEY

    def test_one_that_somebody_holds_is_not_dropped_and_nobody_is_asked(self) -> None:
        wrapping, rotating = self._rotating(), self._rotating()
        asked: list[str] = []

        def unused() -> bool:
            asked.append("unused")
            return True

        hold = wrapping.hold_kek()
        wrapped = wrapping.wrap(_KEY, _context())
        assert hold.key_id == wrapping.key_id
        before = hold.key_id
        rotating.new_kek()

        assert not rotating.drop_kek(before, unused)
        assert asked == []
        assert self._rotating().unwrap(wrapped, _context()) == _KEY

        del hold
        assert rotating.drop_kek(before, lambda: True)

    def test_holding_the_new_one_keeps_no_older_one(self) -> None:
        wrapping, rotating = self._rotating(), self._rotating()
        before = wrapping.hold_kek().key_id
        now = rotating.new_kek()
        hold = wrapping.hold_kek()
        assert hold.key_id == now
        assert rotating.drop_kek(before, lambda: True)

    def test_who_holds_the_old_one_still_comes_to_hold_the_new_one(self) -> None:
        wrapping, rotating = self._rotating(), self._rotating()
        first = wrapping.hold_kek()
        now = rotating.new_kek()
        second = wrapping.hold_kek()
        assert second.key_id == now == wrapping.key_id
        assert not rotating.drop_kek(first.key_id, lambda: True)

    def test_nobody_comes_to_hold_one_while_it_is_asked_whether_it_is_used(self) -> None:
        wrapping, rotating = self._rotating(), self._rotating()
        before = rotating.key_id
        wrapping.wrap(_KEY, _context())
        rotating.new_kek()
        held: list[str] = []

        def unused() -> bool:
            held.append(wrapping.hold_kek().key_id)
            return True

        assert rotating.drop_kek(before, unused)

        assert held == [rotating.key_id]

    # --- hiding, threads ----------------------------------------------------------------------------------

    def test_a_replacement_shows_no_key(self) -> None:
        protector = self._rotating()
        keks = [self.kek(1)]
        protector.new_kek()
        keks.append(self.kek(1))
        with pytest.raises(KeyProblem) as caught:
            protector.drop_kek(protector.key_id, lambda: True)
        shown = [repr(protector), repr(protector.hold_kek()), *protector.older_keks(), protector.key_id]
        shown += [str(caught.value), *traceback.format_exception(caught.value)]
        for kek in keks:
            if kek is not None:
                assert not [text for text in shown if kek.hex() in text or repr(kek)[2:-1] in text]

    def test_threads_that_wrap_while_it_is_replaced_lose_nothing(self) -> None:
        shared, rotating = self._rotating(), self._rotating()
        first = rotating.key_id

        def trip(number: int) -> bool:
            if number in (100, 200, 300):
                rotating.new_kek()
            context = _context(subject=f"{number:064x}")
            hold = shared.hold_kek()
            wrapped = shared.wrap(b"%d" % number, context)
            return hold.key_id != "" and self._rotating().unwrap(wrapped, context) == b"%d" % number

        with ThreadPoolExecutor(_THREADS) as pool:
            assert all(pool.map(trip, range(400)))
        assert len(rotating.older_keks()) == 3
        assert first in rotating.older_keks()

    def _rotating(self) -> RotatingKeyProtector:
        rotation = rotation_of(self._protector())
        assert rotation is not None
        return rotation


def _context(subject: str = "ab" * 32, purpose: str = "certificate") -> KeyContext:
    return KeyContext(_DOMAIN, subject, purpose)


def _refused(call: Callable[[], bytes]) -> KeyUnreadable:
    with pytest.raises(KeyUnreadable) as caught:
        call()
    return caught.value


_KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
