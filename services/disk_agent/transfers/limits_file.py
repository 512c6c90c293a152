"""The section `limits` of config.yaml, followed while the agent runs: no restart is needed."""

import os
from pathlib import Path

import structlog

from services.config import ConfigError, load_config
from services.config.limits_model import Limits

_log = structlog.stdlib.get_logger(__name__)

_Version = tuple[int, int, int, int]


class LimitsFile:
    """Notices when the limits in a config file change."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """`limits` are those that the file had when it was read last."""
        self._path = path
        self._limits = limits
        # It may have been changed since then: the first look reads it.
        self._seen: _Version | None = None
        self._found = self._version()

    def changed(self) -> Limits | None:
        """The limits if they have changed, else None. Blocks.

        A change counts once two calls in a row found the same file: one that is being written may
        be valid halfway, without its limits. A file that is missing or has a mistake changes
        nothing: the log says why, once.
        """
        before, self._found = self._found, self._version()
        if self._found in (self._seen, None) or self._found != before:
            return None
        self._seen = self._found
        try:
            limits = load_config(self._path).limits
        except (ConfigError, OSError) as error:
            _log.error(
                f"{self._path} was changed and cannot be used, the limits stay as they were: "
                f"{error}",
                action="limits.refused",
            )
            return None
        if limits == self._limits:
            return None
        self._limits = limits
        _log.info(
            "the limits were changed",
            action="limits.changed",
            limits=limits.model_dump(mode="json", by_alias=True),
        )
        return limits

    def _version(self) -> _Version | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
