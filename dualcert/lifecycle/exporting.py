"""A certificate as PEM files for somebody else's use."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from dualcert.errors import DeployError, UsageProblem
from dualcert.lifecycle import inspection, keymaking
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.pair import Pair, Role
from dualcert.model.wording import typed
from dualcert.store import certificates, events, pairs


def export(world: World, pair: Pair, role: Role, folder: Path, *, with_key: bool) -> list[Path]:
    """Write the current certificate of a role; the files written. A key that leaves the database leaves an event.

    Raises ``UsageProblem`` where there is no certificate, ``KeyUnreadable``, ``DeployError`` where nothing can be
    written.
    """
    with world.store.read() as tx:
        state = pairs.state(tx, pair.id)
        number = state.serving if role is Role.PRIMARY else state.standby
        if number is None:
            raise UsageProblem(
                f"there is no {role.value} certificate to export",
                remedy=f"See what is there: dualcert show {typed(pair.name)}",
                name=pair.name,
            )
        subject = certificates.get(tx, number)
        leaf = inspection.pem_of(certificates.der_of(tx, number))
        chain = certificates.chain_of(tx, subject)
        wrapped = certificates.wrapped(tx, subject.spki)
    contents = {"cert.pem": leaf, "chain.pem": chain, "fullchain.pem": leaf + chain}
    if with_key:
        key = keymaking.unwrap(world, wrapped).decode("ascii")
        contents |= {"privkey.pem": key, "bundle.pem": key + leaf + chain}
        with world.store.write() as tx:
            events.record(
                tx,
                EventKind.KEY_EXPORTED,
                f"to {folder.absolute()}",
                pair=pair.id,
                ca=subject.ca,
                certificate=subject.id,
            )
    return _write(folder, contents)


def _why(error: OSError) -> str | None:
    # A folder that exists is none of these.
    return "it is a file, not a folder" if isinstance(error, FileExistsError) else error.strerror


def _write(folder: Path, contents: dict[str, str]) -> list[Path]:
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            _write_one(folder / name, text, secret=name in {"privkey.pem", "bundle.pem"})
            written.append(folder / name)
    except OSError as error:
        raise DeployError(
            f"{error.filename or folder} cannot be written: {_why(error)}",
            remedy="Choose a folder with room that you may write to.",
        ) from error
    return written


def _write_one(path: Path, text: str, *, secret: bool) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Made by us and with its mode, not found or changed to it: there is no moment in which others could open a key.
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            if not secret:
                os.fchmod(file.fileno(), 0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
