"""Names of images: the disk agent and CloudStack take them, and no two images share one."""

import pytest

from services.disk_agent.storage.image_names import is_image_name
from services.orchestrator.stages import Stage
from services.orchestrator.work.image_names import image_name
from tests.rigs.orchestrator.agents import machine
from tests.rigs.orchestrator.rig import new_rig, spec_text

_ID = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("vm_name", "stem"),
    [
        ("web-1", "web-1"),
        ("web 1", "web-1"),
        ("a_b.c", "a_b.c"),
        ("a%2fb%2Fc/c\\d", "a-b-c-c-d"),
        ("Büro äöü", "Buro-aou"),
        ("日本", "vm"),
        ("..", "vm"),
        ("", "vm"),
        (".hidden", "hidden"),
        ("-rf *; $(x) 'q' \"q\"", "rf-x-q-q"),
        ("x\ny,z:=", "x-y-z"),
    ],
)
def test_a_machines_name_becomes_a_safe_file_name(vm_name: str, stem: str) -> None:
    name = image_name(vm_name, "vm-42", 0, _ID)
    assert name == f"{stem}_vm-42_disk0_01234567.qcow2"
    assert is_image_name(name)


def test_long_names_are_cut_before_what_makes_them_unique() -> None:
    for vm_name in ("n" * 300, "ab-" * 100):
        name = image_name(vm_name, "vm-42", 12, _ID)
        assert 198 <= len(name) <= 200
        assert name.endswith("_vm-42_disk12_01234567.qcow2")
        assert is_image_name(name)
        assert "-_" not in name


def test_names_differ_by_machine_unit_and_migration() -> None:
    names = {
        image_name("web", moref, unit, id_)
        for moref in ("vm-1", "vm-2")
        for unit in (0, 1)
        for id_ in (_ID, _ID[::-1])
    }
    assert len(names) == 8


def test_the_longest_moref_still_has_a_name_that_is_one() -> None:
    moref = "vm-" + "4" * 125
    for vm_name in ("n" * 300, "日本", "-" * 60 + "x"):
        name = image_name(vm_name, moref, 59, _ID)
        assert name.endswith(f"_{moref}_disk59_01234567.qcow2")
        assert is_image_name(name)


@pytest.mark.parametrize(
    ("moref", "unit", "id_"),
    [
        ("", 0, _ID),
        ("///", 0, _ID),
        ("vm-1", -1, _ID),
        ("vm-1", 0, ""),
        ("vm-" + "4" * 126, 0, _ID),
        ("vm-" + "4" * 300, 0, _ID),
        # One character of which four become letters a file name takes: 512.
        ("\N{SQUARE KCAL}" * 128, 0, _ID),
    ],
)
def test_no_name_without_what_makes_it_unique(moref: str, unit: int, id_: str) -> None:
    with pytest.raises(ValueError, match="no image name"):
        image_name("web", moref, unit, id_)


def test_an_image_keeps_the_name_it_was_made_with() -> None:
    with new_rig() as rig:
        vm = rig.add(machine(name="Büro 1"))
        id_ = rig.submit_spec(spec_text("Büro 1"))
        rig.to_stage(Stage.ENABLING_CBT)
        first = [disk.image_name for disk in rig.row().disks]
        assert first == [f"Buro-1_vm-1_disk{n}_{id_[:8]}.qcow2" for n in range(2)]
        # As after an upgrade to a version that forms names otherwise, and a repeated stage.
        with rig.store.change(id_) as (_, row):
            row.vm_name = "renamed"
            row.stage = Stage.PREPARING_TARGET_STORAGE
        rig.to_waiting_delta()
        assert [disk.image_name for disk in rig.row().disks] == first
        assert len(rig.storage.images) == len(vm.disks)
