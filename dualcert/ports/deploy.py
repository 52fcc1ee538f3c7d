"""The port to a place that serves certificates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, cast

from dualcert.errors import DeployError
from dualcert.ports.options import Options


class Version(NamedTuple):
    """Orders what a target may be told to serve for one pair: the epoch first, then the certificate's number.

    Within an epoch one lineage serves and its certificates are numbered as they arrive, so the greater is the newer.
    """

    epoch: int
    certificate: int


@dataclass(frozen=True)
class Placement:
    """What a target is to serve for one pair.

    ``certificate`` and ``chain`` are PEM text (``chain`` may hold several certificates, or none), ``private_key`` is
    unencrypted PKCS#8 PEM and is not shown by ``repr``. ``sha256`` is the fingerprint of the leaf's DER.
    """

    pair: str
    names: tuple[str, ...]
    version: Version
    certificate: str
    chain: str
    private_key: bytes = field(repr=False)
    sha256: bytes = b""

    @property
    def folder(self) -> str:
        """A name for the pair that is safe in paths: ``*`` becomes ``_wildcard``."""
        return folder_name(self.pair)


def folder_name(pair: str) -> str:
    return "_wildcard" + pair[1:] if pair.startswith("*.") else pair


@dataclass(frozen=True)
class Held:
    """What a target holds for a pair now, by reading it back. ``version`` is None where it cannot say."""

    sha256: bytes
    version: Version | None


class Deployer(Protocol):
    """Brings one target to serve given certificates. Built as ``Deployer(options)``, touching nothing.

    * **Many at once.** ``deploy`` stages every placement, hundreds maybe, then activates once: one reload per batch.
    * **Each for itself.** The result has an entry for every placement: None when it is in service, else the error;
      one pair that fails, or whose place cannot be read, leaves the others and keeps what it had. When the activation
      fails, all of its placements fail, and the next call activates again although it finds everything staged. What
      is raised besides DeployError is told as a defect of the plugin; to find the pair that it stumbles over, the same
      placements are given again in smaller parts.
    * **Never back.** A placement whose version is lower than what the target holds is not written: ``OlderEpoch``.
    * **Idempotent.** The same again changes nothing and activates nothing. After a kill at any point the same call
      makes the target whole.
    * **All or nothing per pair.** A reader never sees the certificate of one placement with the key of another.
    * **Keys.** A private key is readable by its owner alone, and never an argument of a process.
    * **An end.** Nobody ends a call from outside, and the target gets nothing else meanwhile: whatever may hang is
      given a time.
    * Calls for one target come one after another within dualcert (a lease sees to that), but a call of a process
      that was believed dead may still end late: the version check is made under a lock of the target's own.
    """

    options_class: ClassVar[type[Options]]

    def deploy(self, placements: Sequence[Placement]) -> Mapping[str, DeployError | None]:
        """By pair name. Raises DeployError only where nothing at all could be attempted."""
        ...

    def read_back(self, pairs: Sequence[str]) -> Mapping[str, Held | None]:
        """What stands there now, by pair name; None where there is nothing.

        DeployError where that cannot be learned of one of them: then fewer are asked about, until that one fails alone.
        """
        ...

    def purge(self, pair: str, keep: Version) -> None:
        """Forget every older version of the pair, its private keys above all. Called when ``keep`` was verified."""
        ...

    def remove(self, pair: str) -> None:
        """Stop serving the pair and forget all of it, every version and every private key. Other pairs are untouched.

        Returns when the target has been activated without it, where it has an activation; ``read_back`` says None
        then. What is absent is fine, and activates nothing. Raises DeployError where something of the pair is left, or
        the activation failed: the same call again finishes, also after a kill at any point. What others have put in
        the pair's place is left as it is, with a DeployError. Afterwards the pair may be deployed again, and begins
        anew: with any version.
        """
        ...


class CheckingDeployer(Deployer, Protocol):
    """A deployer that can say beforehand whether it could deploy: an optional capability, known by ``check_of``."""

    def check(self) -> None:
        """Look whether a deployment could be made now. Changes nothing that is served and activates nothing.

        Raises DeployError with the first reason why it could not, and what to do about it.
        """
        ...


class PlacedDeployer(Deployer, Protocol):
    """A deployer that can say where it puts pairs: an optional capability, known by ``place_of``."""

    def place(self) -> str:
        """The same for all targets of this kind where one reads, and removes, what another has put."""
        ...


def place_of(deployer: Deployer) -> object:
    """Equal for two deployers if they have one place; None where the deployer cannot say, or has it alone."""
    if not hasattr(deployer, "place"):
        return None
    return type(deployer), cast("PlacedDeployer", deployer).place()


def check_of(deployer: Deployer) -> Callable[[], None] | None:
    """How the deployer looks beforehand; None where it cannot."""
    return cast("CheckingDeployer", deployer).check if hasattr(deployer, "check") else None
