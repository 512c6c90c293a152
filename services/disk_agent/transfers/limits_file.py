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
        """`limits` are those that were read from the file at the start of the agent."""
        self._path = path
        self._limits = limits
        # The file may have changed since the start, so it is read at the first opportunity.
        self._seen: _Version | None = None
        self._found = self._version()

    def changed(self) -> Limits | None:
        """The limits if they have changed, else None. Blocks.

        A changed file is read once two calls in a row found the same version: a half-written file
        may be valid and lack its limits. A file that is missing changes nothing. Neither does one
        with a mistake, which is logged once.
        """
        before, self._found = self._found, self._version()
        if self._found in (self._seen, None) or self._found != before:
            return None
        self._seen = self._found
        try:
            limits = load_config(self._path).limits
        except (ConfigError, OSError) as error:
            _log.error(
                f"{self._path} was changed and cannot be used, the previous limits stay in force: "
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
