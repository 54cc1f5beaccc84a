"""Logs: one JSON object a line, or coloured lines on a terminal. Ids and codes only; secrets are removed (I12)."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET = re.compile(
    r"(sk|rk|pk)_(live|test)_[A-Za-z0-9_]+|whsec_[A-Za-z0-9_]+|(?<=://)[^/@\s:]*:[^/@\s]*(?=@)|[\w.+-]+@[\w-]+\.[\w.-]+"
)


def redact(text: str) -> str:
    """Replace API keys, webhook secrets, passwords in URLs and e-mail addresses."""
    return _SECRET.sub("[redacted]", text)


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
    return event


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
        _redact_event,
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
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("apscheduler", "httpx", "stripe", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
