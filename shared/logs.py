"""Logs: one JSON object a line, or coloured lines on a terminal. Ids and codes only; secrets are removed (I12)."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_SECRET = re.compile(
    r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9_]+|whsec_[A-Za-z0-9_]+|\b[a-z]+_\w+_secret_\w+"
    # A password in a URL may hold "/", ":" and "@", encoded or not: up to the last "@" of the word.
    r"|(?<=://)\S+(?=@)|(?<=password=)\S+|(?<=Bearer )\S+"
    r"|[\w.+-]+@[\w-]+\.[\w.-]+"
)
#: Values under such a name are secrets whatever they look like.
_SECRET_NAME = re.compile(r"password|secret|authorization|cookie|api_?key", re.IGNORECASE)
_REDACTED = "[redacted]"


def redact(text: str) -> str:
    """Replace API keys, client and webhook secrets, passwords in URLs and e-mail addresses."""
    return _SECRET.sub(_REDACTED, text)


def _redacted(value: Any, name: str = "") -> Any:
    """Return the value as it may be rendered: plain data, each text of which went through `redact`."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAME.search(name):
        return _REDACTED
    if isinstance(value, str):
        return redact(str(value))
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(each) for each in value]
    if isinstance(value, bytes | bytearray):
        return redact(value.decode("utf-8", "backslashreplace"))
    return redact(repr(value))


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Runs last before the renderer, so that nothing is added or turned into text behind it."""
    return {redact(key): _redacted(value, key) for key, value in event.items()}


def configure_logs(process: str, level: str = "INFO") -> None:
    """Send all logging, ours and the libraries', to standard error in one format."""

    def name_process(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"process": process, **event}

    shared: list[Any] = [
        name_process,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact_event, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("apscheduler", "httpx", "stripe", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
