"""Commands about files, arguments and help; they need no server."""

from pathlib import Path

import pytest
import yaml

from cli.main import main


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("V2C_ENABLE_EXPERT_COMMANDS", raising=False)
    monkeypatch.delenv("V2C_CONFIG", raising=False)


def test_example_check_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["config", "example"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)

    assert main(["config", "check"]) == 2
    printed = capsys.readouterr().err
    assert "VC_PASSWORD" in printed
    assert "CLOUDSTACK_SECRET_KEY" in printed

    for name in ("VC_PASSWORD", "CLOUDSTACK_API_KEY", "CLOUDSTACK_SECRET_KEY"):
        monkeypatch.setenv(name, "hunter2")
    assert main(["config", "check"]) == 0
    assert main(["config", "show"]) == 0
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    assert "env:VC_PASSWORD" in shown


def test_examples_are_listed_and_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "example"])
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    main(["config", "example", "list"])
    names = capsys.readouterr().out.split()
    assert len(names) == 7

    for name in names:
        if name == "config":
            continue
        main(["config", "example", name])
        example = capsys.readouterr().out
        (tmp_path / "spec.yaml").write_text(example)
        document = yaml.safe_load(example)
        vms = [each["vm"]["name"] for each in document.get("vms", [document])]
        assert main(["spec", "check", "--spec", "spec.yaml"]) == 0
        plural = "" if len(vms) == 1 else "s"
        assert capsys.readouterr().out == f"{len(vms)} VM{plural}: {', '.join(vms)}\n"


def test_a_spec_is_found_in_the_folder_of_specs_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "vcenter": {"host": "vc", "user": "root"},
        "migration": {"vddk_path": "vddk", "control_dir": "c", "specs_dir": "fleet"},
        "cloudstack": {"endpoint": "cs", "api_key": "a", "secret_key": "b"},
        "cloudstack_defaults": dict.fromkeys(
            ("zoneid", "clusterid", "storageid", "networkid", "serviceofferingid"),
            "b85761ad-bc7e-5170-92bf-7001d40b491f",
        ),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "fleet").mkdir()
    for file, vm in (("fleet/web.yaml", "there"), ("fleet/db.yaml", "db01"), ("web.yaml", "here")):
        (tmp_path / file).write_text(f"vm: {{name: {vm}}}")

    assert main(["spec", "check", "--spec", "web.yaml", "--spec", "db.yaml"]) == 0
    assert capsys.readouterr().out == "2 VMs: here, db01\n"
    assert main(["spec", "check", "--spec", "none.yaml"]) == 2
    assert "none.yaml: there is no such file" in capsys.readouterr().err
    assert main(["status", "--spec", "db.yaml"]) == 0
    assert "db01" in capsys.readouterr().out
    assert main(["finalize", "--spec", "db.yaml", "--vm", "db02"]) == 1
    assert "It has 'db01'" in capsys.readouterr().err


def test_pki_init_prints_the_section_to_paste(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pki", "init", "--dir", "pki", "--name", "storage1", "--host", "10.0.0.1"]) == 0

    tls = yaml.safe_load(capsys.readouterr().out)["tls"]
    assert Path(tls["ca"]).is_file()
    assert Path(tls["certificate"]).is_file()
    assert Path(tls["key"]).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["bogus"], "No such command 'bogus'. See v2c --help."),
        (["finalize", "--vmm", "x"], "No such option: --vmm. See v2c finalize --help."),
        (["run"], "--spec: is required and not given. See v2c run --help."),
        (["run", "--spec", "a", "--parallel-vms", "0"], "--parallel-vms: "),
        (["list", "vm"], "'vm' cannot be listed. Give vms, zones"),
        (["config", "example", "lsit"], "there is no example 'lsit'"),
        (["run", "--spec", "nowhere.yaml"], "there is no such file"),
        (["base-copy", "--spec", "x"], "Set V2C_ENABLE_EXPERT_COMMANDS=1"),
        (["base-cpy", "--spec", "x"], "No such command 'base-cpy'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["config", "example"])
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)

    assert main(arguments) == 2

    printed = capsys.readouterr().err
    assert expected in printed
    assert printed.count("\n") == 1


def test_check_warns_of_a_folder_without_vddk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VC_PASSWORD", "CLOUDSTACK_API_KEY", "CLOUDSTACK_SECRET_KEY"):
        monkeypatch.setenv(name, "hunter2")
    main(["config", "example"])
    example = capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(example.replace("/opt/vmware-vix", "/nowhere/vmware-vix"))

    assert main(["config", "check"]) == 0

    assert "warning: migration.vddk_path: /nowhere" in capsys.readouterr().out


def test_no_command_is_the_help_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2

    assert capsys.readouterr().err.startswith("Usage: v2c [OPTIONS]")


def test_no_summary_is_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])

    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0

    assert capsys.readouterr().out.startswith("v2c ")


@pytest.mark.parametrize(
    "command",
    ["run", "status", "finalize", "shutdown", "events", "list", "serve", "config", "spec", "pki"],
)
def test_help_explains(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0

    assert "Usage: v2c" in capsys.readouterr().out


def test_expert_commands_are_hidden_and_need_the_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("V2C_ENABLE_EXPERT_COMMANDS", "1")

    assert main(["base-copy", "--help"]) == 0
    assert "base_copy{" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "base-copy" not in capsys.readouterr().out


def test_lab_commands_are_handed_over_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[list[str]] = []

    def execv(program: str, arguments: list[str]) -> None:
        handed.append(arguments[1:])

    monkeypatch.setattr("os.execv", execv)

    main(["lab", "up", "--dir", "x", "--help"])
    main(["demo", "--keep"])

    assert handed == [
        ["-m", "lab", "up", "--dir", "x", "--help"],
        ["-m", "lab", "demo", "--keep"],
    ]


def test_without_any_config_the_first_step_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--spec", "web01.yaml"]) == 2

    assert "v2c config example > config.yaml" in capsys.readouterr().err
