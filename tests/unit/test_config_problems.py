"""Mistakes in a file: every one is reported, with its line and a way out."""

from pathlib import Path

import pytest

from services.config import ConfigError, Problem, load_config, parse_config

GOOD = """\
vcenter:
  host: vc
  user: root
migration:
  vddk_path: /opt/vddk
cloudstack:
  endpoint: cs
  api_key: a
  secret_key: b
"""


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.yaml")
    return caught.value.problems


def problem(text: str) -> Problem:
    (only,) = problems(text)
    return only


def test_an_unknown_key_names_the_nearest_and_its_line() -> None:
    found = problem(GOOD.replace("  user: root", "  usr: x\n  user: root"))

    assert (found.line, found.column, found.field) == (3, 3, "vcenter.usr")
    assert found.hint == "Did you mean user?"


def test_a_key_in_the_wrong_section_is_sent_to_the_right_one() -> None:
    found = problem(GOOD + "  parallel_vms: 5\n")

    assert found.field == "cloudstack.parallel_vms"
    assert "key of migration" in found.hint


def test_a_key_like_nothing_lists_what_there_is() -> None:
    assert "host, user, password" in problem(GOOD.replace("user: root", "user: u\n  qqq: 1")).hint


def test_all_problems_are_reported_at_once() -> None:
    found = problems("vcenter:\n  host: [a]\nmigration:\n  parallel_vms: many\ncloudstak: 1\n")

    assert {(item.field, item.line) for item in found} == {
        ("vcenter.host", 2),
        ("vcenter.user", 2),
        ("migration.vddk_path", 4),
        ("migration.parallel_vms", 4),
        ("cloudstack", 1),
        ("cloudstak", 5),
    }


@pytest.mark.parametrize(
    ("section", "field", "expected"),
    [
        ("disk: {queue_depth: deep}", "disk.queue_depth", "'deep': expected a whole number"),
        ("disk: {queue_depth: 1.5}", "disk.queue_depth", "'1.5': expected a whole number"),
        ("disk: {queue_depth: 1000}", "disk.queue_depth", "'1000': must be at most 64"),
        ("disk: {verify_target: maybe}", "disk.verify_target", "expected true or false"),
        ("disk: {digest: sha256}", "disk.digest", "'sha256': expected xxh3_128 or blake3"),
        ("disk: [1]", "disk", "a list: expected keys and values"),
        ("disk: fast", "disk", "text: expected keys and values"),
        ("limits: {transfer_mbps: fast}", "limits.transfer_mbps", "'fast': expected a number"),
        ("limits: {transfer_mbps: -1}", "limits.transfer_mbps", "must be more than 0"),
        ("logging: {level: {a: b}}", "logging.level", "keys and values: expected debug, info"),
        ("gateway: {listen: [1]}", "gateway.listen", "a list: expected text"),
        ("virt: {virtio_iso: [1]}", "virt.virtio_iso", "a list: expected"),
    ],
)
def test_a_wrong_type_names_value_and_what_was_expected(
    section: str, field: str, expected: str
) -> None:
    found = problem(GOOD + section)

    assert found.field == field
    assert found.line == 10
    assert expected in found.message


def test_a_duplicated_key_is_refused_with_both_lines() -> None:
    found = problem(GOOD + "vcenter:\n  host: other\n")

    assert (found.field, found.line) == ("vcenter", 10)
    assert "line 1" in found.message


@pytest.mark.parametrize("text", ["", "   \n", "# only a comment\n", "---\n", "{}", "null"])
def test_an_empty_file(text: str) -> None:
    assert problem(text).message == "the file is empty"


def test_a_tab() -> None:
    found = problem("vcenter:\n\thost: a\n")

    assert found.line == 2
    assert "tab" in found.message
    assert "spaces" in found.hint


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1, 2\nb: 3\n", 2),
        ("a: 'open\n", 2),
        ("a: b: c\n", 1),
        ("a: *nobody\n", 1),
        ("a: 1\n---\nb: 2\n", 2),
        ("password: @bc\n", 1),
        ("a: \x07\n", 0),
    ],
)
def test_broken_yaml_has_a_line_and_quotes_nothing(text: str, line: int) -> None:
    found = problem(text)

    assert found.line == line
    assert "not valid YAML" in found.message
    assert "bc" not in str(found)


def test_a_tag_that_runs_code_elsewhere_is_refused() -> None:
    found = problem("a: !!python/object/apply:os.system ['true']\n")

    assert found.line == 1
    assert "tag" in found.message


def test_aliases_cannot_expand_without_end() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )

    assert "aliases" in problem(bomb).message
    assert "alias" in problem("a: &a [*a]\n").message


def test_too_deep_nesting_is_an_error_and_not_a_crash() -> None:
    assert problem("[" * 100_000).line in {0, 1}


def test_a_missing_file_names_the_folder_it_was_sought_from() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: there is no such file.*directory is /"):
        load_config("nowhere.yaml")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        load_config(tmp_path)


def test_not_utf8_names_the_byte_and_its_place(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"vcenter:\n  user: J\xfcrgen\n")

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    (found,) = caught.value.problems
    assert (found.line, found.column) == (2, 10)
    assert "0xfc is not UTF-8" in found.message


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())

    assert load_config(path).vcenter.host == "vc"


def test_windows_of_the_calendar_are_checked_each_at_its_line() -> None:
    found = problems(
        GOOD
        + """\
limits:
  windows:
    - {from: "08:00", to: "18:00", days: [mon, tues], rate_mbps: 20}
    - from: 8
      to: 24:30
      rate_mbps: 0
    - {form: 22:00, to: 6:00, rate_mbps: 5}
"""
    )

    reported = {(item.field, item.line): str(item) for item in found}
    assert set(reported) == {
        ("limits.windows[0].days[1]", 12),
        ("limits.windows[1].from", 13),
        ("limits.windows[1].to", 14),
        ("limits.windows[1].rate_mbps", 15),
        ("limits.windows[2].from", 16),
        ("limits.windows[2].form", 16),
    }
    assert (
        "'tues' is not a day of the week. Did you mean tue?"
        in reported["limits.windows[0].days[1]", 12]
    )
    assert "'24:30' is not a time of day" in reported["limits.windows[1].to", 14]
    assert "Did you mean from?" in reported["limits.windows[2].form", 16]
