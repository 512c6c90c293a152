"""Structured logs: structlog and the standard library's records through one redacting pipeline."""

import logging
import logging.handlers
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from services.kit.redact import Redactor, redactor

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Format = Literal["console", "json"]

_LOG_FILE_MODE = 0o640
# Libraries that log every request at INFO or DEBUG; their warnings are of interest.
_NOISY_LOGGERS = ("asyncio", "grpc", "httpcore", "httpx", "urllib3", "uvicorn.access")


@dataclass(frozen=True)
class LogSettings:
    """Where a process logs, what, and how it looks.

    `stderr_format` None writes nothing to stderr. `file` is always JSON lines; another program
    (logrotate) may rotate it, the process then opens the new file.
    """

    level: Level = "INFO"
    stderr_format: Format | None = "console"
    file: Path | None = None


class RedactSecrets:
    """The structlog processor that masks secrets in every key and value of a line."""

    def __init__(self, masks: Redactor) -> None:
        self._masks = masks

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Return the masked event."""
        return {
            key: value if key.startswith("_") else self._masks.item(key, value)
            for key, value in event.items()
        }


def configure_logging(settings: LogSettings, *, service: str, masks: Redactor = redactor) -> None:
    """Route structlog, the standard library's loggers and Python's warnings as `settings` says.

    Call it once, early in a process; calling it again replaces the earlier set-up. Every line has
    ``timestamp`` (UTC), ``level``, ``logger``, ``service``, what is bound to the context
    (``request_id`` and so on), and secrets masked as the last step before rendering, so in
    tracebacks too.

    Raises OSError when the log file cannot be opened.
    """

    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_service,
    ]
    # Without any handler the standard library would print warnings to stderr by itself.
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if settings.stderr_format is not None:
        stream = logging.StreamHandler(sys.stderr)
        colours = settings.stderr_format == "console" and sys.stderr.isatty()
        stream.setFormatter(_formatter(settings.stderr_format, shared, masks, colours=colours))
        handlers.append(stream)
    if settings.file is not None:
        settings.file.parent.mkdir(parents=True, exist_ok=True)
        settings.file.touch(mode=_LOG_FILE_MODE)
        file = logging.handlers.WatchedFileHandler(settings.file, encoding="utf-8")
        file.setFormatter(_formatter("json", shared, masks, colours=False))
        handlers.append(file)
    _install(handlers, settings.level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # loggers of imported modules exist before this call
    )


def _formatter(
    form: Format, shared: list[Processor], masks: Redactor, *, colours: bool
) -> logging.Formatter:
    renderer: Processor
    if form == "json":
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=colours, exception_formatter=structlog.dev.plain_traceback
        )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            # Tracebacks become text before masking: an exception's message may hold a secret.
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            RedactSecrets(masks),
            renderer,
        ],
    )


def _install(handlers: list[logging.Handler], level: Level) -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
