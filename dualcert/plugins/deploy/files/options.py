"""The options of the ``files`` deployer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dualcert.plugins.execution import check_variables
from dualcert.ports.options import Options, option

_LONGEST_RELOAD = 3600.0


@dataclass(frozen=True, kw_only=True)
class FilesOptions(Options):
    summary: ClassVar[str] = (
        "PEM files in a folder, switched all at once, and a command that reloads the server"
    )

    directory: Path = option(
        help="the folder that holds PAIR/{cert,chain,fullchain,privkey,bundle}.pem; made where it is missing"
    )
    reload: tuple[str, ...] = option(
        default=(),
        help="the command that makes the server load the files, one word per item and no shell: "
        '["systemctl", "reload", "nginx"]; unsaid: the server looks by itself',
    )
    reload_timeout: float = option(
        default=30.0, help="seconds after which the reload command and its children are killed"
    )
    environment: tuple[str, ...] = option(
        default=(),
        help="names of environment variables that the reload command sees, beside PATH, HOME, LANG and the like",
    )

    def __post_init__(self) -> None:
        if self.reload and not self.reload[0].strip():
            raise ValueError("reload: the first word must be the command")
        if any("\0" in word for word in self.reload):
            raise ValueError("reload: a word cannot hold a NUL character")
        check_variables(self.environment)
        if not 0 < self.reload_timeout <= _LONGEST_RELOAD:
            raise ValueError(f"reload_timeout: must be above 0 and at most {_LONGEST_RELOAD:.0f} seconds")
