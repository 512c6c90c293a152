"""The files in examples/: complete, understood, and good for a lab's CloudStack."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from lab.cloudstack.seed import default_ids
from services.config import Config, load_config, load_specs, parse_config, resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
SPECS = sorted(EXAMPLES.glob("spec.*.yaml"))


def keys_of(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from keys_of(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item, path)
    else:
        yield path


def keys_of_model(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        written = info.alias or name
        full = f"{path}.{written}" if path else written
        nested = [
            item
            for item in (info.annotation, *getattr(info.annotation, "__args__", ()))
            if isinstance(item, type) and issubclass(item, BaseModel)
        ]
        if nested:
            yield from keys_of_model(nested[0], full)
        else:
            yield full


def uncommented() -> str:
    text = (EXAMPLES / "config.yaml").read_text()
    return re.sub(r"(?m)^(\s*)#((?:  )*([a-z_]+:( .*)?|- \{.*))$", r"\1\2", text)


def test_the_config_example_loads_without_a_warning() -> None:
    config = load_config(EXAMPLES / "config.yaml")

    assert config.warnings == ()
    assert config.cloudstack.endpoint == "https://cloudstack.example.com/client/api"


def test_the_config_example_shows_every_key() -> None:
    shown = set(keys_of(yaml.safe_load(uncommented())))

    assert shown == set(keys_of_model(Config))


def test_what_the_config_example_comments_out_is_valid_too() -> None:
    config = parse_config(uncommented().replace("insecure: false", ""), "config.yaml")

    assert config.tls is not None
    assert config.vcenter.thumbprint is not None


def test_what_the_config_example_spells_out_are_the_defaults() -> None:
    shown = load_config(EXAMPLES / "config.yaml")
    required = {
        "vcenter": {"host": "h", "user": "u"},
        "migration": {"vddk_path": "/v"},
        "cloudstack": {"endpoint": "cs", "api_key": "a", "secret_key": "b"},
    }
    bare = parse_config(yaml.safe_dump(required), "config.yaml")

    for section in ("virt", "agents", "database", "gateway", "disk", "limits", "logging"):
        assert getattr(shown, section) == getattr(bare, section)
    given = {"vddk_path"}
    assert shown.migration.model_dump(exclude=given) == bare.migration.model_dump(exclude=given)


def test_there_are_six_templates() -> None:
    assert {path.name.removeprefix("spec.").removesuffix(".yaml") for path in SPECS} == {
        f"{count}.{shape}"
        for count in ("single-vm", "multi-vm")
        for shape in ("defaults-only", "single-disk.single-nic", "multi-disk.multi-nic")
    }


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_a_template_resolves_against_the_example_config(path: Path) -> None:
    config = load_config(EXAMPLES / "config.yaml")

    specs = load_specs(path)

    assert (len(specs) > 1) is (".multi-vm." in path.name)
    for spec in specs:
        assert spec.warnings == ()
        vm = resolve(spec, config)
        assert vm.placement(0).storageid
        assert ("multi-nic" in path.name) is (vm.network(4001, 1) is not None)
        assert ("multi-disk" in path.name) is bool(spec.disks)


@pytest.mark.parametrize("path", [EXAMPLES / "config.yaml", *SPECS], ids=lambda path: path.name)
def test_ids_are_those_of_a_labs_cloudstack(path: Path) -> None:
    known = set(default_ids().values())

    written = set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", path.read_text()))

    assert written <= known
