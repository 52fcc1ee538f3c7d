"""The conformance suite of key protectors (``dualcert.ports.keys.KeyProtector``)."""

from __future__ import annotations

import hashlib
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dualcert.errors import KeyProblem, KeyUnreadable
from dualcert.ports.keys import KeyContext, KeyProtector

_DOMAIN = "primary"
_THREADS = 8


class KeyProtectorConformance(ABC):
    """What every key protector must do. A plugin passes it by a subclass that gives ``protector`` and ``kek``."""

    plugin: ClassVar[type[Any]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        replaced = sorted(
            name for name in vars(cls) if name.startswith("test_") and hasattr(KeyProtectorConformance, name)
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

    def test_an_account_key_opens_as_one(self) -> None:
        context = _context(purpose="account")
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
            KeyContext(_DOMAIN, "ab" * 32, "account"),
            KeyContext(_DOMAIN, "cd" * 32, "certificate"),
            KeyContext("backup", "ab" * 32, "certificate"),
            KeyContext(_DOMAIN + "ab", "ab" * 31, "certificate"),
            KeyContext(_DOMAIN, "ab" * 32 + "c", "ertificate"),
        ],
        ids=["purpose", "subject", "domain", "domain-subject", "subject-purpose"],
    )
    def test_another_context_does_not_open(self, context: KeyContext) -> None:
        wrapped = self._protector().wrap(_KEY, _context())
        _refused(lambda: self._protector().unwrap(wrapped, context))
        _refused(lambda: self.protector(context.domain, 1).unwrap(wrapped, context))

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


def _context(subject: str = "ab" * 32, purpose: str = "certificate") -> KeyContext:
    return KeyContext(_DOMAIN, subject, purpose)


def _refused(call: Callable[[], bytes]) -> KeyUnreadable:
    with pytest.raises(KeyUnreadable) as caught:
        call()
    return caught.value


_KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
