"""Secrets of a config are masked in what a process writes, as docs/howto/configure.md promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.config import load_config
from services.config.secret import Secret, SecretUrl, mask_secrets
from services.kit.entry import print_masked
from services.kit.redact import MASK, redactor

_CONFIG = """\
vcenter: {host: vc.test, user: me, password: "env:TEST_MASKED_VC"}
migration: {vddk_path: /opt/vddk}
cloudstack: {endpoint: cs.test, api_key: "file:masked-key", secret_key: plain:masked-secret-key-1}
database: {url: "postgresql+psycopg://v2c:masked%2Fpass-2@db.test/v2c"}
"""


def test_all_secrets_of_a_config_are_masked_and_missing_ones_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(_CONFIG)
    monkeypatch.setenv("TEST_MASKED_VC", "masked-vc-password-3")
    # masked-key does not exist: this host does not talk to CloudStack.
    mask_secrets(load_config(tmp_path / "config.yaml"))
    shown = "masked-vc-password-3 masked-secret-key-1 masked%2Fpass-2 masked/pass-2 db.test"
    assert redactor.text(shown) == f"{MASK} {MASK} {MASK} {MASK} db.test"


def test_a_secret_that_changed_is_masked_once_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "changing"
    file.write_text("masked-first-4\n")
    secret = Secret(f"file:{file}", "vcenter.password")
    secret.get_secret_value()
    file.write_text("masked-second-5\n")
    assert redactor.text("masked-second-5") != MASK
    secret.get_secret_value()
    assert redactor.text("masked-first-4 masked-second-5") == f"{MASK} {MASK}"


def test_only_the_secret_parts_of_a_url_are_masked() -> None:
    for url in (
        "sqlite:////var/lib/masked6/v2c.sqlite3",
        "postgresql://u@masked6-db/v2c?x=masked6",
    ):
        SecretUrl(url, "database.url").get_secret_value()
    assert redactor.text("masked6 masked6-db") == "masked6 masked6-db"
    SecretUrl("postgresql://masked7-db/v2c?password=masked7-pw", "database.url").get_secret_value()
    assert redactor.text("masked7-db: masked7-pw") == f"masked7-db: {MASK}"


def test_a_traceback_of_a_defect_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    redactor.register("masked-in-traceback-9")
    try:
        raise ValueError("cannot parse masked-in-traceback-9")
    except ValueError as error:
        print_masked(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    assert printed.endswith(f"ValueError: cannot parse {MASK}\n")
    assert printed.startswith("Traceback (most recent call last)")


def test_what_is_no_url_is_masked_whole() -> None:
    SecretUrl("postgresql://[masked8", "database.url").get_secret_value()
    assert redactor.text("cannot parse postgresql://[masked8") == f"cannot parse {MASK}"
