"""One dialect, the field's: retired words are nowhere in code, messages, tests and documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_FOLDERS = ("services", "gateway", "cli", "lab", "proto", "docs", "examples", "tests")
_PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_SUFFIXES = frozenset({".c", ".h", ".json", ".md", ".proto", ".py", ".pyi", ".sh", ".yaml"})
# Generated from the .proto files, whose comments they repeat.
_GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")

# A phrase may be broken over two lines, of a comment too.
_GAP = r"(?: |[ \t]*\n[ \t#*/|:]*)"
# In names, too: `_told`, `owed_chunks`.
_START, _END = r"(?<![A-Za-z])", r"(?![A-Za-z])"

_RETIRED = {
    "wish(es)?": "request (of an operator), command (to a worker)",
    "warden": "reaper",
    "mend(s|ed|ing)?": "repair, fix; 'correct the lines named' for users' files",
    "told": "reported, expected, message",
    "said": "printed, output, message, last stderr lines",
    "hears?|heard|hearing": "read, received",
    "ow(e|es|ed|ing)": "a debt is added; 'pending' for chunks that a pass still has to copy",
    "forgiv(e|en|es)": "a debt is dropped",
    "vouch(es)?": "guarantees, is evidence of",
    "paid|pays?|paying": "a debt is settled",
    r"last[\W_]?words?": "last stderr lines, StderrTail",
    "held against": "checked against",
    "brought wholly": "copied whole",
    "(is|are|was) over": "has ended; stale (of an epoch)",
    "do not do": "cannot …",
    "so many": "the number, or the limit",
    "go(es)? on": "continues, resumes",
    "without a word": "without reporting a result",
    "lets? go": "releases, unmanages, removes",
    "comes? to rest|at rest": "is suspended, or: paused, failed or ended",
}
_PATTERN = re.compile(
    "|".join(
        rf"(?P<w{index}>{_START}(?:{words.replace(' ', _GAP)}){_END})"
        for index, words in enumerate(_RETIRED)
    ),
    re.IGNORECASE,
)
_INSTEAD = tuple(_RETIRED.values())

# Files that keep what they have: databases in use have seen these versions, and this list.
_ALLOWED_FILES = re.compile(
    r"^services/orchestrator/database/schema/versions/|^tests/unit/test_words\.py$"
)
# Columns that databases in use have, and an action that logs have had for long.
_ALLOWED_TEXTS = ('mapped_column("wishes"', "create_time, paid_time,", 'action="worker.said"')


@dataclass(frozen=True)
class _Found:
    line: int
    word: str
    instead: str


def _found(text: str) -> Iterator[_Found]:
    for allowed in _ALLOWED_TEXTS:
        text = text.replace(allowed, "")
    for match in _PATTERN.finditer(text):
        word = " ".join(match[0].split())
        line = text.count("\n", 0, match.start()) + 1
        yield _Found(line, word, _INSTEAD[int((match.lastgroup or "w0")[1:])])


def _files() -> Iterator[Path]:
    for folder in _FOLDERS:
        for path in sorted((_ROOT / folder).rglob("*")):
            name = path.relative_to(_ROOT).as_posix()
            if (
                path.suffix in _SUFFIXES
                and path.is_file()
                and not _GENERATED.search(name)
                and not _ALLOWED_FILES.search(name)
            ):
                yield path
    yield from (_ROOT / page for page in _PAGES)


def test_no_retired_word_is_used() -> None:
    found = [
        f"{path.relative_to(_ROOT)}:{hit.line}: {hit.word!r}, instead: {hit.instead}"
        for path in _files()
        for hit in _found(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"{len(found)} retired words:\n" + "\n".join(found)


def test_no_file_is_named_after_a_retired_word() -> None:
    names = [path.relative_to(_ROOT).as_posix() for path in _files()]
    assert [name for name in names if any(_found(name.replace("/", " / ")))] == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("the operator's Wish", "Wish"),
        ("def _told(self)", "told"),
        ("owed_chunks = 3", "owed"),
        ("the epoch is\n    # over", "is # over"),
        ("LastWords", "LastWords"),
        ("it goes on", "goes on"),
    ],
)
def test_a_retired_word_is_found_in_names_and_over_line_ends(text: str, word: str) -> None:
    assert [hit.word for hit in _found(f"first line\n{text}\n")] == [word]
    assert next(_found(f"first line\n{text}\n")).line == 2


@pytest.mark.parametrize(
    "text", ["recommended", "allowed", "following", "payload", "overlay", 'mapped_column("wishes"']
)
def test_other_words_are_not(text: str) -> None:
    assert list(_found(text)) == []
