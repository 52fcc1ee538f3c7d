"""Pairs, their lineages and what is known of their protection."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    PRIMARY = "primary"
    BACKUP = "backup"


class KeyType(StrEnum):
    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


class Protection(StrEnum):
    """Derived from facts and the present, never stored."""

    PROTECTED = "protected"
    UNPROTECTED = "unprotected"
    EXPOSED = "exposed"
    PENDING = "pending"


@dataclass(frozen=True)
class Pair:
    """A set of names kept covered by two certificates. ``first_wait`` is in seconds."""

    id: int
    name: str
    names: tuple[str, ...]
    names_digest: bytes
    key_type: KeyType
    dns: str
    targets: tuple[str, ...]
    first_wait: int
    created_at: datetime


@dataclass(frozen=True)
class Lineage:
    """One CA's succession of certificates within a pair; open while ``retired_at`` is None."""

    id: int
    pair_id: int
    ca: str
    domain: str
    opened_at: datetime
    retired_at: datetime | None
    renew_at: datetime | None


@dataclass(frozen=True)
class PairState:
    """The narrow, hot row: which certificates hold which role. ``serving`` belongs to ``primary_lineage``."""

    pair_id: int
    epoch: int
    serving: int | None
    standby: int | None
    primary_lineage: int
    backup_lineage: int
    backup_ok_until: datetime | None
    next_action_at: datetime | None

    def role_of(self, lineage: int) -> Role:
        return Role.PRIMARY if lineage == self.primary_lineage else Role.BACKUP

    def certificate_of(self, lineage: int) -> int | None:
        return self.serving if lineage == self.primary_lineage else self.standby
