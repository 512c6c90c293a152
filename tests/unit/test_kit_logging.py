import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from services.kit.logging import LogSettings, configure_logging
from services.kit.redact import Redactor

SECRET = "correct-horse-battery"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:
        root.removeHandler(handler)
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    masks = Redactor()
    masks.register(SECRET)
    path = tmp_path / "logs" / "x.log"
    settings = LogSettings(level="DEBUG", stderr_format="console", file=path)
    configure_logging(settings, service="x", masks=masks)
    return path


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_time_service_level_and_action(log_file: Path) -> None:
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.stdlib.get_logger("a.b").info("copied", action="copy.done", size_bytes=7)
    (line,) = _lines(log_file)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "copied",
        "action": "copy.done",
        "size_bytes": 7,
        "level": "info",
        "logger": "a.b",
        "service": "x",
        "request_id": "r1",
    }


def test_a_secret_is_masked_in_every_part_of_a_line(
    log_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.contextvars.bind_contextvars(session=f"cookie {SECRET}")
    log = structlog.stdlib.get_logger("a")
    log.info(f"logged in with {SECRET}", action="a", login={"password": "hunter2"})
    log.info("keys", secret_key="hunter2", nested=[{"deep": {"apiKey": "hunter2"}}])
    logging.getLogger("library").warning("url https://root:hunter2@vc and %s", SECRET)
    try:
        raise RuntimeError(f"refused {SECRET}")
    except RuntimeError:
        log.exception("failed")
        logging.getLogger("library").exception("failed too")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"old {SECRET}", UserWarning, stacklevel=1)
    everything = log_file.read_text() + capsys.readouterr().err
    assert len(_lines(log_file)) == 6
    assert everything.count("RuntimeError") >= 4
    assert SECRET not in everything
    assert "hunter2" not in everything


def test_the_level_is_kept_and_chatty_libraries_are_quiet(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    configure_logging(LogSettings(level="INFO", stderr_format=None, file=path), service="x")
    structlog.stdlib.get_logger("a").debug("no")
    logging.getLogger("httpx").info("no")
    logging.getLogger("library").info("yes")
    assert [line["event"] for line in _lines(path)] == ["yes"]


def test_silent_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(stderr_format=None, file=tmp_path / "l"), service="x")
    structlog.stdlib.get_logger("a").error("only in the file")
    assert capsys.readouterr().err == ""
