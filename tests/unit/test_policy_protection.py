from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert.model.pair import Protection
from dualcert.policy.protection import ProtectionFacts, protection

WHOLE = ProtectionFacts(
    issued=True, serving=True, serving_bad=None, standby_usable=True, served_everywhere=True
)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (WHOLE, Protection.PROTECTED),
        (replace(WHOLE, standby_usable=False), Protection.UNPROTECTED),
        (replace(WHOLE, served_everywhere=False), Protection.UNPROTECTED),
        (replace(WHOLE, serving=False), Protection.UNPROTECTED),
        (replace(WHOLE, serving_bad="it is revoked"), Protection.EXPOSED),
        (replace(WHOLE, serving_bad="it is revoked", standby_usable=False), Protection.EXPOSED),
        (replace(WHOLE, issued=False, serving=False, standby_usable=False), Protection.PENDING),
    ],
)
def test_protection_follows_from_the_facts(facts: ProtectionFacts, expected: Protection) -> None:
    assert protection(facts) is expected


@given(
    st.builds(
        ProtectionFacts,
        issued=st.booleans(),
        serving=st.booleans(),
        serving_bad=st.none() | st.just("it is revoked"),
        standby_usable=st.booleans(),
        served_everywhere=st.booleans(),
    )
)
def test_protected_is_said_only_where_every_single_thing_is_well(facts: ProtectionFacts) -> None:
    assert (protection(facts) is Protection.PROTECTED) == (facts == WHOLE)
