import base64
import json
import time
import urllib.parse

import pytest

from services.kit.redact import Redactor, is_secret_key

SECRET = "p&ss w<rd/'1"


@pytest.fixture
def masks() -> Redactor:
    redactor = Redactor()
    redactor.register(SECRET)
    return redactor


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        urllib.parse.quote(SECRET, safe=""),
        urllib.parse.quote_plus(SECRET),
        json.dumps({"x": SECRET}),
        "<p>p&amp;ss w&lt;rd/'1</p>",
        repr(["a", SECRET]),
        base64.b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_registered_secret_is_masked_however_it_is_written(masks: Redactor, written: str) -> None:
    masked = masks.text(f"before {written} after")
    assert "***" in masked
    assert "w<rd" not in masked
    assert "w%3Crd" not in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")


def test_the_longer_of_two_secrets_wins() -> None:
    masks = Redactor()
    masks.register("abcd")
    masks.register("abcdefgh")
    assert masks.text("x abcdefgh y") == "x *** y"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://root:hunter2@vc/sdk", "https://root:***@vc/sdk"),
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer ***"),
        ("GET /x?apiKey=AbC&name=n", "GET /x?apiKey=***&name=n"),
        ("VC_PASSWORD=hunter2 ran", "VC_PASSWORD=*** ran"),
        ('{"password": "hunter 2", "a": 1}', '{"password": ***, "a": 1}'),
        ("monkey=1 turkey=2 tokens left", "monkey=1 turkey=2 tokens left"),
    ],
)
def test_unregistered_credentials_are_recognized(text: str, masked: str) -> None:
    assert Redactor().text(text) == masked


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("password", True),
        ("VC_PASSWORD", True),
        ("secretKey", True),
        ("x-api-key", True),
        ("authorization", True),
        ("key", False),
        ("disk_key", False),
        ("secret_file_missing", False),
        ("tokens_left", False),
    ],
)
def test_secret_keys(key: str, secret: bool) -> None:
    assert is_secret_key(key) is secret


def test_nested_values_are_masked_and_the_rest_kept(masks: Redactor) -> None:
    value = {
        "login": {"user": "root", "password": "x"},
        "args": ["a", SECRET],
        "n": 7,
        "none": None,
    }
    assert masks.value(value) == {
        "login": {"user": "root", "password": "***"},
        "args": ["a", "***"],
        "n": 7,
        "none": None,
    }


def test_masking_takes_linear_time() -> None:
    masks = Redactor()
    masks.register("correct-horse")
    for unit in ("a-", "a.", "ab ", "://", "x:y@", "password", "token=", "bearer "):
        text = unit * (200_000 // len(unit))
        started = time.perf_counter()
        masks.text(text)
        assert time.perf_counter() - started < 2, unit


def test_a_short_secret_is_masked_only_as_a_whole_value() -> None:
    masks = Redactor()
    masks.register("ab")
    masks.register("")
    assert masks.value({"user": "ab", "note": "about"}) == {"user": "***", "note": "about"}
    assert masks.text("") == ""
