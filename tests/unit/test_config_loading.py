"""config.yaml: what is accepted, what it means, and what is never printed."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from services.config import Config, ConfigError, load_config, parse_config, show_config

MINIMAL = {
    "vcenter": {"host": "vc.example.com", "user": "root"},
    "migration": {"vddk_path": "/opt/vddk"},
    "cloudstack": {"endpoint": "cs.example.com", "api_key": "AK", "secret_key": "S3CR3T"},
}


def config_with(**sections: object) -> Config:
    merged: dict[str, object] = {
        name: {**MINIMAL.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in {**MINIMAL, **sections}.items()
    }
    return parse_config(yaml.safe_dump(merged), "config.yaml", Path("/etc/v2c"))


def problems(**sections: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_with(**sections)
    return [str(problem) for problem in caught.value.problems]


def test_the_reference_tools_defaults_hold() -> None:
    config = config_with()

    assert config.migration.parallel_disks == 4
    assert config.migration.parallel_vms == 3
    assert config.migration.snapshot_quiesce == "auto"
    assert config.migration.shutdown_mode == "auto"
    assert config.migration.finalize_settle_seconds is None
    assert config.migration.control_dir == Path("/var/lib/vm-migrator")
    assert config.migration.specs_dir == Path("/var/lib/vm-migrator/specs")
    assert config.virt.run_virt_v2v is False
    assert config.gateway.listen == ":8000"


def test_zero_and_empty_mean_the_default_as_in_the_reference_tool() -> None:
    config = config_with(
        migration={"parallel_disks": 0, "shutdown_mode": "", "control_dir": None},
        cloudstack_defaults={"zoneid": "", "clusterid": "  "},
        virt=None,
    )

    assert config.migration.parallel_disks == 4
    assert config.migration.shutdown_mode == "auto"
    assert config.migration.control_dir == Path("/var/lib/vm-migrator")
    assert config.cloudstack_defaults.zoneid is None
    assert config.cloudstack_defaults.clusterid is None


@pytest.mark.parametrize("written", [True, "true", "True", "yes", "on"])
def test_quiesce_is_a_word_however_yaml_spells_it(written: object) -> None:
    assert config_with(migration={"snapshot_quiesce": written}).migration.snapshot_quiesce == "true"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("cs.example.com", "http://cs.example.com/client/api"),
        ("10.0.35.146:8080", "http://10.0.35.146:8080/client/api"),
        ("https://cs.example.com", "https://cs.example.com/client/api"),
        ("https://cs.example.com/", "https://cs.example.com/client/api"),
        ("http://cs:8080/client/api", "http://cs:8080/client/api"),
        ("https://cs/cloud/api/", "https://cs/cloud/api"),
        ("http://[::1]:8080", "http://[::1]:8080/client/api"),
    ],
)
def test_endpoint_forms(written: str, meant: str) -> None:
    assert config_with(cloudstack={"endpoint": written}).cloudstack.endpoint == meant


@pytest.mark.parametrize(
    "written", ["ftp://cs", "https://", "http://cs:99999", "http://admin:x@cs", "http://cs/?a=b"]
)
def test_an_endpoint_that_is_none_is_refused_with_the_forms(written: str) -> None:
    (problem,) = problems(cloudstack={"endpoint": written})

    assert "cloudstack.endpoint" in problem
    assert "host:port" in problem


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("vc", "vc", 443),
        ("vc:8443", "vc", 8443),
        ("https://vc/sdk", "vc", 443),
        ("[fd00::1]:8443", "fd00::1", 8443),
    ],
)
def test_vcenter_host_as_people_paste_it(written: str, host: str, port: int) -> None:
    config = config_with(vcenter={"host": written})

    assert (config.vcenter.host, config.vcenter.port) == (host, port)


def test_thumbprints_are_compared_without_case_and_colons() -> None:
    written = ":".join(["AB"] * 20)

    assert config_with(vcenter={"thumbprint": written}).vcenter.thumbprint == "ab" * 20
    assert "openssl" in problems(vcenter={"thumbprint": "AB:CD"})[0]


def test_insecure_beside_a_thumbprint_is_a_contradiction() -> None:
    (problem,) = problems(vcenter={"insecure": True, "thumbprint": "ab" * 20})

    assert "vcenter.insecure" in problem


def test_an_empty_password_means_vc_password(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_with(vcenter={"password": ""})
    monkeypatch.setenv("VC_PASSWORD", "p:a@s s'\"")

    assert config.vcenter.password.get_secret_value() == "p:a@s s'\""


def test_a_missing_password_names_the_field_and_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VC_PASSWORD", raising=False)

    with pytest.raises(ConfigError, match=r"vcenter\.password.*VC_PASSWORD"):
        config_with().vcenter.password.get_secret_value()


def test_secrets_from_files_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("from file\n")
    monkeypatch.setenv("CS_KEY", "from env")
    text = yaml.safe_dump(
        {
            **MINIMAL,
            "cloudstack": {"endpoint": "cs", "api_key": "env:CS_KEY", "secret_key": "file:secret"},
            "vcenter": {"host": "h", "user": "u", "password": "plain:env:x"},
        }
    )
    (tmp_path / "config.yaml").write_text(text)

    config = load_config(tmp_path / "config.yaml")

    assert config.cloudstack.api_key.get_secret_value() == "from env"
    assert config.cloudstack.secret_key.get_secret_value() == "from file"
    assert config.vcenter.password.get_secret_value() == "env:x"


def test_a_missing_secret_file_names_field_and_path() -> None:
    config = config_with(cloudstack={"secret_key": "file:/nowhere/key"})

    with pytest.raises(ConfigError, match=r"cloudstack\.secret_key.*/nowhere/key"):
        config.cloudstack.secret_key.get_secret_value()


def test_no_secret_is_ever_shown() -> None:
    config = config_with(
        vcenter={"password": "hunter2"},
        database={"url": "postgresql://v2c:hunt@er3@db/v2c?password=hunter4"},
    )

    for text in (show_config(config), repr(config), str(config), config.model_dump_json()):
        assert not any(secret in text for secret in ("hunt", "er3", "S3CR3T"))
    shown = yaml.safe_load(show_config(config))
    assert shown["database"]["url"].startswith("postgresql://v2c:***")
    assert config.database.url.get_secret_value().endswith("hunter4")


def test_a_secret_of_the_wrong_type_is_not_quoted() -> None:
    text = "\n".join(problems(vcenter={"passwd": "hunter2"}, cloudstack={"api_key": ["hunter2"]}))

    assert "cloudstack.api_key" in text
    assert "Did you mean password?" in text
    assert "hunter2" not in text


def test_references_are_shown_as_they_are_not_secret() -> None:
    shown = yaml.safe_load(show_config(config_with(cloudstack={"api_key": "env:CS_KEY"})))

    assert shown["cloudstack"]["api_key"] == "env:CS_KEY"
    assert shown["vcenter"]["password"] == "env:VC_PASSWORD"


def test_relative_paths_start_at_the_configs_folder(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({**MINIMAL, "migration": {"vddk_path": "vddk", "control_dir": "../state"}})
    )

    config = load_config(tmp_path / "config.yaml")

    assert config.path == tmp_path / "config.yaml"
    assert config.migration.vddk_path == tmp_path / "vddk"
    assert config.migration.control_dir == tmp_path.parent / "state"
    assert config.agents.disk == f"unix:{tmp_path.parent}/state/run/disk.sock"
    url = config.database.url.get_secret_value()
    assert url == f"sqlite:///{tmp_path.parent}/state/v2c.sqlite3"


def test_a_network_address_needs_tls() -> None:
    (problem,) = problems(agents={"disk": "storage1:7002"})
    assert "agents.disk" in problem
    assert "v2c pki init" in problem

    tls = {"ca": "ca.crt", "certificate": "host.crt", "key": "host.key"}
    config = config_with(agents={"disk": "storage1:7002"}, tls=tls)
    assert config.agents.disk == "storage1:7002"
    assert config.tls is not None
    assert config.tls.ca == Path("/etc/v2c/ca.crt")


@pytest.mark.parametrize("address", ["127.0.0.1:7002", "localhost:7002", "[::1]:7002"])
def test_loopback_needs_no_tls(address: str) -> None:
    assert config_with(agents={"disk": address}).agents.disk == address


@pytest.mark.parametrize(
    "address", ["storage1", "unix:run/x.sock", "host:0", "host:70000", "a b:1"]
)
def test_an_address_nothing_can_listen_on(address: str) -> None:
    assert "agents.vmware" in problems(agents={"vmware": address})[0]


def test_a_socket_path_longer_than_linux_allows_is_found_at_once() -> None:
    (problem,) = problems(migration={"control_dir": "/" + "x" * 100})

    assert "107" in problem
    assert "migration.control_dir" in problem


def test_tls_is_all_or_nothing() -> None:
    found = problems(tls={"ca": "ca.crt"})

    assert [name for name in ("tls.certificate", "tls.key") if name in "\n".join(found)] == [
        "tls.certificate",
        "tls.key",
    ]
    assert config_with(tls={}).tls is None


def test_an_id_that_is_no_uuid_is_a_warning() -> None:
    config = config_with(cloudstack_defaults={"zoneid": "zone-1", "clusterid": "a" * 8})

    assert [warning.field for warning in config.warnings] == [
        "cloudstack_defaults.zoneid",
        "cloudstack_defaults.clusterid",
    ]


def test_a_config_cannot_be_changed_after_loading() -> None:
    config = config_with()

    with pytest.raises(ValidationError, match="frozen"):
        config.migration.parallel_vms = 9


def test_checkpoints_and_limits_take_numbers() -> None:
    config = config_with(limits={"transfer_mbps": "12.5"}, disk={"checkpoint_seconds": 0.5})

    assert config.limits.transfer_mbps == 12.5
    assert timedelta(seconds=config.disk.checkpoint_seconds) == timedelta(milliseconds=500)
    assert config_with(limits={"transfer_mbps": 0}).limits.transfer_mbps is None
