"""Models back to YAML: the effective configuration, and one VM's spec."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import PurePath
from typing import Any

import yaml
from pydantic import BaseModel

from services.config.config_model import Config
from services.config.secret import Secret
from services.config.spec_model import VmSpec

__all__ = ["dump_spec", "dump_specs", "show_config"]


def show_config(config: Config) -> str:
    """The effective configuration as YAML. References are shown, plain secrets are stars."""
    return _dump({name: _plain(value) for name, value in config})


def dump_spec(spec: VmSpec) -> str:
    """One VM as a spec file that `parse_specs` reads back to the same values.

    Holds no defaults: what the spec leaves open is decided by config.yaml, now and later.
    """
    return _dump(_plain(spec, only_set=True))


def dump_specs(specs: Iterable[VmSpec]) -> str:
    """Several VMs as one spec file; see `dump_spec`. Local times get their offset."""
    return _dump({"vms": [_plain(spec, only_set=True) for spec in specs]})


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any, *, only_set: bool = False) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        shown = value.model_fields_set if only_set else set(fields)
        return {
            info.alias or name: _plain(getattr(value, name), only_set=only_set)
            for name, info in fields.items()
            if name in shown and getattr(value, name) is not None
        }
    if isinstance(value, tuple):
        return [_plain(item, only_set=only_set) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, only_set=only_set) for key, item in value.items()}
    if isinstance(value, Secret):
        return value.shown()
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, PurePath) else value
