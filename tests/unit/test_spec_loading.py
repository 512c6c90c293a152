"""Spec files: one VM or many, their settings, and what is refused."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.config import ConfigError, Problem, VmSpec, dump_spec, load_specs, parse_specs


def only(text: str) -> VmSpec:
    (spec,) = parse_specs(text)
    return spec


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_specs(text, "spec.yaml")
    return caught.value.problems


@pytest.fixture
def _berlin(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()


def test_one_vm_at_the_top() -> None:
    spec = only("vm: {name: web 01}\n")

    assert spec.vm.name == "web 01"
    assert spec.vm.moref is None
    assert spec.migration.delta_interval == 300
    assert spec.migration.finalize_delta_interval == 30
    assert spec.migration.finalize_window == 600
    assert spec.migration.start_vm_after_import is False
    assert spec.disks == {}


def test_a_list_of_vms_keeps_its_order() -> None:
    specs = parse_specs("vms:\n- vm: {name: b}\n- vm: {name: a}\n")

    assert [spec.vm.name for spec in specs] == ["b", "a"]


@pytest.mark.parametrize("name", ["007", "no", "1e3", "null0", "2026-03-12", "0x10", "数据库"])
def test_a_name_is_text_whatever_it_looks_like(name: str) -> None:
    assert only(f"vm: {{name: {name}}}").vm.name == name


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-03-12T23:30:00Z", datetime(2026, 3, 12, 23, 30, tzinfo=UTC)),
        ("2026-03-12T23:30:00+00:00", datetime(2026, 3, 12, 23, 30, tzinfo=UTC)),
        ("2026-03-12t23:30:00.5z", datetime(2026, 3, 12, 23, 30, 0, 500000, tzinfo=UTC)),
        ("2026-03-12T23:30:00-05:00", datetime(2026, 3, 13, 4, 30, tzinfo=UTC)),
        ("2026-03-12T23:30", datetime(2026, 3, 12, 22, 30, tzinfo=UTC)),
        ("2026-03-12 23:30:15", datetime(2026, 3, 12, 22, 30, 15, tzinfo=UTC)),
        ("2026-07-12T23:30", datetime(2026, 7, 12, 21, 30, tzinfo=UTC)),
    ],
)
@pytest.mark.usefixtures("_berlin")
@pytest.mark.parametrize("quote", ["", '"'])
def test_finalize_at_forms(written: str, meant: datetime, quote: str) -> None:
    spec = only(f"vm: {{name: a}}\nmigration:\n  finalize_at: {quote}{written}{quote}\n")

    assert spec.migration.finalize_at == meant
    assert spec.migration.finalize_at is not None
    assert spec.migration.finalize_at.tzinfo is not None


@pytest.mark.parametrize(
    "written", ["tomorrow", "2026-03-12", "23:30", "2026-13-01T00:00", "20260312"]
)
def test_a_time_that_is_none_shows_how_to_write_it(written: str) -> None:
    (problem,) = problems(f"vm: {{name: a}}\nmigration:\n  finalize_at: {written}\n")

    assert (problem.field, problem.line) == ("migration.finalize_at", 3)
    assert "2026-03-12T23:30" in problem.hint


def test_unset_is_unset_however_it_is_written() -> None:
    spec = only(
        "vm: {name: a, moref: ''}\n"
        "migration: {finalize_at: '', readers: 0, run_virt_v2v: ~, snapshot_quiesce: ''}\n"
        "target: {cloudstack: {zoneid: '', nic_mappings: }}\n"
        "disks:\n"
    )

    assert spec.vm.moref is None
    assert spec.migration.finalize_at is None
    assert spec.migration.readers is None
    assert spec.migration.run_virt_v2v is None
    assert spec.migration.snapshot_quiesce is None
    assert spec.target.cloudstack.zoneid is None
    assert spec.disks == {}


def test_disks_and_nics_have_text_keys_also_without_quotes() -> None:
    spec = only(
        "vm: {name: a}\n"
        "target: {cloudstack: {nic_mappings: {4000: {networkid: n, source_device_key: 4000}}}}\n"
        "disks: {1: {storageid: s}}\n"
    )

    assert spec.disks["1"].storageid == "s"
    assert spec.target.cloudstack.nic_mappings["4000"].networkid == "n"


@pytest.mark.parametrize(
    ("text", "field", "line", "hint"),
    [
        ("vm: {}\n", "vm.name", 1, ""),
        ("vm: {nam: x}\n", "vm.nam", 1, "Did you mean name?"),
        ("vm: {name: a}\nmigration:\n  delta_intervall: 3\n", "migration.delta_intervall", 3,
         "delta_interval?"),
        ("vm: {name: a}\ndisks:\n  one: {}\n", "disks.one", 3, "16"),
        ("vm: {name: a}\ndisks:\n  1:\n    storage: x\n", "disks.1.storage", 4, "storageid?"),
        ("vm: {name: a}\ntarget:\n  cloudstack:\n    nic_mappings:\n      eth0: {networkid: n}\n",
         "target.cloudstack.nic_mappings.eth0", 5, "4000"),
        ("vm: {name: a}\ntarget:\n  cloudstack:\n    nic_mappings:\n      4000: {}\n",
         "target.cloudstack.nic_mappings.4000.networkid", 5, "network"),
        ("vm: {name: a}\ntarget:\n  cloudstack:\n    nicadapter: pcnet\n",
         "target.cloudstack.nicadapter", 4, ""),
        ("- vm: {name: a}\n", "", 1, "vms:"),
        ("vms: []\n", "vms", 1, ""),
        ("vms:\n- vm: {name: a}\nmigration: {}\n", "migration", 3, "into each VM"),
        ("vms:\n- vm: {name: a}\n- vm: {name: b}\n  migration:\n    delta_interval: x\n",
         "vms[1].migration.delta_interval", 5, ""),
        ("vms:\n- name: a\n", "vms[0].name", 2, "key of vm"),
    ],
)  # fmt: skip
def test_mistakes_have_field_line_and_hint(text: str, field: str, line: int, hint: str) -> None:
    found = {problem.field: problem for problem in problems(text)}

    assert field in found
    assert found[field].line == line
    assert hint in found[field].hint


def test_a_nic_mapping_for_another_nic_is_refused() -> None:
    (problem,) = problems(
        "vm: {name: a}\n"
        "target: {cloudstack: {nic_mappings: {4000: {networkid: n, source_device_key: 4001}}}}\n"
    )

    assert problem.field == "target.cloudstack.nic_mappings.4000.source_device_key"


def test_a_vm_twice_in_one_spec_or_over_several(tmp_path: Path) -> None:
    (problem,) = problems("vms:\n- vm: {name: a}\n- vm: {name: b}\n- vm: {name: a}\n")
    assert problem.line == 4
    assert "line 2" in problem.message

    for number in (1, 2):
        (tmp_path / f"{number}.yaml").write_text("vm: {name: a}\n")
    with pytest.raises(ConfigError, match=r"2\.yaml.*given twice.*1\.yaml"):
        load_specs(tmp_path / "1.yaml", tmp_path / "2.yaml")


def test_two_vms_of_one_name_need_their_morefs() -> None:
    both = "vms:\n- vm: {name: a, moref: vm-1}\n- vm: {name: a, moref: vm-2}\n"
    assert len(parse_specs(both)) == 2

    (problem,) = problems(both.replace(", moref: vm-2", ""))
    assert "moref" in problem.hint
    (problem,) = problems("vms:\n- vm: {name: a, moref: vm-1}\n- vm: {name: b, moref: vm-1}\n")
    assert problem.field == "vms[1].vm.moref"


def test_problems_of_several_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text("vm: {nam: a}\n")
    (tmp_path / "2.yaml").write_text("vm: {name: a}\nx: 1\n")

    with pytest.raises(ConfigError) as caught:
        load_specs(tmp_path / "1.yaml", tmp_path / "2.yaml", tmp_path / "3.yaml")

    assert {Path(problem.source).name for problem in caught.value.problems} == {
        "1.yaml",
        "2.yaml",
        "3.yaml",
    }


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_json_is_read_too(ensure_ascii: bool) -> None:
    text = json.dumps({"vm": {"name": "größe 😀"}, "disks": []}, ensure_ascii=ensure_ascii)

    assert only(text).vm.name == "größe 😀"


def test_merged_mappings_are_completed_not_repeated() -> None:
    first, second = parse_specs(
        "vms:\n"
        "- vm: {name: a}\n"
        "  migration: &m {delta_interval: 7, parallel_disks: 2}\n"
        "- vm: {name: b}\n"
        "  migration: {<<: *m, delta_interval: 9}\n"
    )

    assert (first.migration.delta_interval, first.migration.parallel_disks) == (7, 2)
    assert (second.migration.delta_interval, second.migration.parallel_disks) == (9, 2)


def test_a_dumped_spec_reads_back_the_same() -> None:
    spec = only(
        "vm: {name: 'no', moref: vm-7}\n"
        "migration: {finalize_at: 2026-03-12T23:30Z, run_virt_v2v: off, snapshot_quiesce: yes}\n"
        "target: {cloudstack: {rootdiskcontroller: virtio-scsi, boottype: uefi, "
        "nic_mappings: {4000: {networkid: n}}}}\n"
        "disks: {1: {storageid: s}}\n"
    )

    again = only(dump_spec(spec))

    assert again == spec
    assert again.target.cloudstack.rootdiskcontroller == "scsi"
    assert "delta_interval" not in dump_spec(spec)


def test_an_id_that_is_no_uuid_is_a_warning_with_its_line() -> None:
    (warning,) = only("vm: {name: a}\ndisks:\n  1:\n    storageid: fast pool\n").warnings

    assert (warning.field, warning.line) == ("disks.1.storageid", 4)


def test_a_thousand_vms_load_quickly() -> None:
    vm = "- vm: {name: vm-%d}\n  target:\n    cloudstack:\n      zoneid: z\n      clusterid: c\n"

    specs = parse_specs("vms:\n" + "".join(vm % number for number in range(1000)))

    assert len(specs) == 1000
