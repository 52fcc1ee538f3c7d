"""The public suffix list, read once in a process: with its private part, or what ICANN and the registries say alone."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList


@cache
def public_suffixes(*, private: bool = True) -> PublicSuffixList:
    """To read ten thousand lines takes long enough to be done outside a transaction."""
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(only_icann=not private)
