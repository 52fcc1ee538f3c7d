"""The public suffix list is read once, whole or in part."""

from __future__ import annotations

from dualcert.lifecycle.suffixes import public_suffixes


def test_a_private_suffix_is_one_only_where_it_is_asked_for() -> None:
    assert public_suffixes().privatesuffix("github.io") is None
    assert public_suffixes(private=False).privatesuffix("github.io") == "github.io"


def test_the_list_is_read_once() -> None:
    assert public_suffixes() is public_suffixes()
    assert public_suffixes(private=False) is public_suffixes(private=False)
