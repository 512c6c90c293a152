"""A VM's effective settings: disk, then target, then defaults; spec, then config."""

import pytest
import yaml

from services.config import Config, ConfigError, parse_config, parse_specs, resolve

IDS = {
    "zoneid": "zone",
    "clusterid": "cluster",
    "storageid": "pool",
    "networkid": "net",
    "serviceofferingid": "offering",
    "diskofferingid": "disk-offering",
}


def config(*, defaults: dict[str, str] | None = None, **sections: dict[str, object]) -> Config:
    document: dict[str, object] = {
        "vcenter": {"host": "vc", "user": "root"},
        "migration": {"vddk_path": "/opt/vddk", **sections.pop("migration", {})},
        "cloudstack": {"endpoint": "cs", "api_key": "a", "secret_key": "b"},
        "cloudstack_defaults": IDS if defaults is None else defaults,
        **sections,
    }
    return parse_config(yaml.safe_dump(document), "config.yaml")


def spec_of(**parts: object):  # type: ignore[no-untyped-def]
    (spec,) = parse_specs(yaml.safe_dump({"vm": {"name": "a"}, **parts}), "spec.yaml")
    return spec


def test_defaults_alone_are_enough() -> None:
    vm = resolve(spec_of(), config())

    assert (vm.zoneid, vm.clusterid, vm.serviceofferingid) == ("zone", "cluster", "offering")
    assert vm.placement(0).storageid == "pool"
    assert vm.placement(0).diskofferingid == "disk-offering"
    assert vm.network(4000, 0) == "net"
    assert vm.network(4001, 1) is None


def test_disk_beats_target_beats_defaults() -> None:
    vm = resolve(
        spec_of(
            target={"cloudstack": {"storageid": "target-pool"}},
            disks={"1": {"storageid": "disk-pool"}, "2": {"diskofferingid": "disk-own"}},
        ),
        config(),
    )

    assert vm.placement(0).storageid == "target-pool"
    assert vm.placement(1).storageid == "disk-pool"
    assert vm.placement(1).diskofferingid == "disk-offering"
    assert vm.placement(2).storageid == "target-pool"
    assert vm.placement(2).diskofferingid == "disk-own"


def test_nic_mappings_beat_the_default_network() -> None:
    target = {
        "cloudstack": {
            "nic_mappings": {"4000": {"networkid": "first"}, "4001": {"networkid": "second"}}
        }
    }
    vm = resolve(spec_of(target=target), config())

    assert vm.network(4000, 0) == "first"
    assert vm.network(4001, 1) == "second"
    assert vm.network(4002, 2) is None


def test_every_missing_id_is_named_with_both_places() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(spec_of(), config(defaults={}))

    problems = caught.value.problems
    assert [problem.field.rsplit(".", 1)[-1] for problem in problems] == [
        "zoneid",
        "clusterid",
        "serviceofferingid",
        "storageid",
        "networkid",
    ]
    for problem in problems:
        assert "target.cloudstack." in problem.hint
        assert "cloudstack_defaults." in problem.hint
        assert problem.source == "spec.yaml"


def test_a_disk_without_a_pool_is_found_when_only_others_have_one() -> None:
    ids = {name: value for name, value in IDS.items() if name != "storageid"}
    vm = resolve(spec_of(disks={"1": {"storageid": "pool"}}), config(defaults=ids))

    assert vm.placement(1).storageid == "pool"
    with pytest.raises(ConfigError, match=r'disks\["2"\]\.storageid'):
        vm.placement(2)


def test_migration_settings_fall_back_to_the_config() -> None:
    common = config(
        migration={"snapshot_quiesce": "false", "shutdown_mode": "manual", "parallel_disks": 2},
        virt={"run_virt_v2v": True},
    )

    inherited = resolve(spec_of(), common)
    own = resolve(
        spec_of(
            migration={
                "snapshot_quiesce": "true",
                "shutdown_mode": "force",
                "parallel_disks": 8,
                "run_virt_v2v": False,
            }
        ),
        common,
    )

    assert (inherited.snapshot_quiesce, inherited.shutdown_mode) == ("false", "manual")
    assert (inherited.parallel_disks, inherited.run_virt_v2v) == (2, True)
    assert (own.snapshot_quiesce, own.shutdown_mode) == ("true", "force")
    assert (own.parallel_disks, own.run_virt_v2v) == (8, False)


def test_settle_time_depends_on_the_guest_unless_given() -> None:
    assert resolve(spec_of(), config()).settle_seconds(windows=True) == 30
    assert resolve(spec_of(), config()).settle_seconds(windows=False) == 15
    given = config(migration={"finalize_settle_seconds": 5})
    assert resolve(spec_of(), given).settle_seconds(windows=True) == 5
    own = resolve(spec_of(migration={"finalize_settle_seconds": 1}), given)
    assert own.settle_seconds(windows=True) == 1


def test_secure_boot_needs_uefi() -> None:
    target = {"cloudstack": {"boottype": "BIOS", "bootmode": "Secure"}}
    with pytest.raises(ConfigError, match=r"bootmode.*UEFI"):
        resolve(spec_of(target=target), config())

    uefi_defaults = config(defaults={**IDS, "boottype": "UEFI", "bootmode": "SECURE"})
    bios = resolve(spec_of(target={"cloudstack": {"boottype": "BIOS"}}), uefi_defaults)
    assert (bios.boottype, bios.bootmode) == ("BIOS", None)
