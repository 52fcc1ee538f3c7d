from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert.policy.pairing import CaIdentity, CertificateIdentity, ca_objections, certificate_objections

ALPHA = CaIdentity("alpha", "https://alpha/dir", "Alpha Ltd", frozenset({"alpha.example"}), "one")
BETA = CaIdentity("beta", "https://beta/dir", "Beta Ltd", frozenset({"beta.example"}), "two")
ONE = CertificateIdentity(b"key 1", b"issuer 1", b"root 1")
OTHER = CertificateIdentity(b"key 2", b"issuer 2", b"root 2")


def test_two_cas_with_nothing_in_common_may_stand_behind_a_pair() -> None:
    assert ca_objections(ALPHA, BETA) == ()


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (replace(BETA, name="alpha"), "same CA"),
        (replace(BETA, directory=ALPHA.directory), "same CA"),
        (replace(BETA, operator=ALPHA.operator), "operator, Alpha Ltd"),
        (replace(BETA, caa_identities=BETA.caa_identities | ALPHA.caa_identities), "identity alpha.example"),
        (replace(BETA, domain=ALPHA.domain), "isolation domain, one"),
    ],
)
def test_one_thing_in_common_is_named(other: CaIdentity, word: str) -> None:
    [objection] = ca_objections(ALPHA, other)
    assert word in objection


def test_what_is_not_known_of_both_is_not_held_against_them() -> None:
    one = replace(ALPHA, operator=None, caa_identities=frozenset())
    assert ca_objections(one, replace(BETA, operator=None, caa_identities=frozenset())) == ()


def test_two_certificates_with_nothing_in_common_are_independent() -> None:
    assert certificate_objections(ONE, OTHER) == ()


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (replace(OTHER, spki=ONE.spki), "same key"),
        (replace(OTHER, issuing_key=ONE.issuing_key), "issuing key"),
        (replace(OTHER, root_key=ONE.root_key), "same root"),
    ],
)
def test_a_key_in_common_is_named(other: CertificateIdentity, word: str) -> None:
    [objection] = certificate_objections(ONE, other)
    assert word in objection


def test_roots_that_are_not_known_are_not_the_same_root() -> None:
    assert certificate_objections(replace(ONE, root_key=None), replace(OTHER, root_key=None)) == ()


def test_issuing_keys_that_are_not_known_are_not_the_same_key() -> None:
    assert certificate_objections(replace(ONE, issuing_key=b""), replace(OTHER, issuing_key=b"")) == ()


few = st.sampled_from(["a", "b"])
identities = st.builds(
    CaIdentity,
    name=few,
    directory=few,
    operator=st.none() | few,
    caa_identities=st.frozensets(few),
    domain=few,
)


@given(one=identities, other=identities)
def test_dependence_does_not_depend_on_who_is_asked_first(one: CaIdentity, other: CaIdentity) -> None:
    assert len(ca_objections(one, other)) == len(ca_objections(other, one))
