"""Logs on stderr, as text or JSON, one line a record.

A record says which pair, CA, target and work it is about: what the logger was given in ``extra`` under these keys, else
what the step at hand is about.
"""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime
from typing import Final

from dualcert.clock import rfc3339
from dualcert.errors import told
from dualcert.lifecycle import subject

ABOUT: Final = ("pair", "ca", "target", "work")
_LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)
# They print request and response bodies, keys of external accounts among them.
_NOISY: Final = ("acme", "josepy", "urllib3", "requests", "dns")
_HANDLER: Final = "dualcert-stderr"

log = logging.getLogger("dualcert")


def configure(verbosity: int, log_format: str) -> None:
    """Send the log to stderr: warnings; with 1 what is done; with 2 everything, tracebacks too.

    Only dualcert's own loggers become talkative: all others stay at warnings. Calling it again replaces what it did.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.name == _HANDLER]:
        root.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.name = _HANDLER
    tracebacks = verbosity >= 2
    handler.setFormatter(_Json(tracebacks) if log_format == "json" else _Text(tracebacks))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    log.setLevel(_LEVELS[min(verbosity, len(_LEVELS) - 1)])
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # A log that cannot be written must not print tracebacks of its own.
    logging.raiseExceptions = False
    threading.excepthook = _thread_died


def _thread_died(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = args.thread.name if args.thread else "?"
    log.error("thread %s ended by %s", name, args.exc_type.__name__, exc_info=args.exc_value)


class _Formatter(logging.Formatter):
    def __init__(self, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def parts(self, record: logging.LogRecord) -> dict[str, object]:
        at = datetime.fromtimestamp(record.created, UTC)
        parts: dict[str, object] = {
            "at": rfc3339(at.replace(microsecond=at.microsecond // 1000 * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        step = subject.current.get()
        about = step.told() if step is not None else {}
        about |= {key: value for key in ABOUT if (value := getattr(record, key, None)) is not None}
        parts |= {key: about[key] for key in ABOUT if key in about}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            parts["error"] = told(error)
            if self._tracebacks:
                parts["traceback"] = self.formatException(record.exc_info)
        return parts


class _Text(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = self.parts(record)
        about = " ".join(f"{key}={parts[key]}" for key in ABOUT if key in parts)
        line = f"{parts['at']} {parts['level']} {parts['logger']}: {parts['message']}"
        line += f" [{about}]" if about else ""
        if "traceback" in parts:
            return f"{line}\n{parts['traceback']}"
        return f"{line} ({parts['error']})" if "error" in parts else line


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.parts(record), ensure_ascii=False, default=str)
