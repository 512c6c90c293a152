"""Reads config.yaml and spec files; every problem of a file is reported at once."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from services.config.config_model import Config
from services.config.document import Document, FieldPath, Value, parse_document, read_text
from services.config.fields import ID_MARKER
from services.config.problems import ConfigError, Problem
from services.config.spec_model import VmSpec
from services.config.validation import validate

__all__ = [
    "SpecFile",
    "default_config_path",
    "load_config",
    "load_spec_files",
    "load_specs",
    "parse_config",
    "parse_specs",
]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_SPEC_KEYS = ("vm", "migration", "target", "disks")


@dataclass(frozen=True, slots=True)
class SpecFile:
    """A spec file as it was when it was read, and the VMs in it."""

    path: Path
    text: str
    specs: tuple[VmSpec, ...]


def default_config_path() -> Path:
    """$V2C_CONFIG, else ./config.yaml if it is there, else /etc/v2c/config.yaml."""
    named = os.environ.get("V2C_CONFIG")
    if named:
        return Path(named)
    local = Path("config.yaml")
    return local if local.is_file() else Path("/etc/v2c/config.yaml")


def load_config(path: Path | str) -> Config:
    """Read config.yaml. Raises ConfigError. Secrets are not read yet: see `Secret`."""
    file = Path(path).absolute()
    config = parse_config(read_text(Path(path)), str(path), file.parent)
    config._path = file
    return config


def parse_config(text: str, source: str, base_dir: Path | None = None) -> Config:
    """Like `load_config` for text. Relative paths are taken from `base_dir` (default: cwd)."""
    document = parse_document(text, source)
    config = validate(Config, document, document.value, (), (base_dir or Path()).absolute())
    config._warnings = tuple(_id_warnings(document, config, ()))
    return config


def load_specs(*paths: Path | str) -> tuple[VmSpec, ...]:
    """The VMs of one or more spec files, in order. Raises ConfigError like `load_spec_files`."""
    return tuple(spec for file in load_spec_files(*paths) for spec in file.specs)


def load_spec_files(*paths: Path | str) -> tuple[SpecFile, ...]:
    """Read one or more spec files, in order.

    Raises ConfigError with the problems of all files, and for a VM that appears twice.
    """
    files: list[SpecFile] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            text = read_text(Path(path))
            files.append(SpecFile(Path(path), text, _parse(text, str(path))))
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(tuple(problems))
    _refuse_duplicates(spec for file in files for spec in file.specs)
    return tuple(files)


def parse_specs(text: str, source: str = "spec") -> tuple[VmSpec, ...]:
    """Like `load_specs` for YAML or JSON text, for example a request's body."""
    specs = _parse(text, source)
    _refuse_duplicates(specs)
    return specs


def _refuse_duplicates(specs: Iterable[VmSpec]) -> None:
    """Raises ConfigError when one VM appears twice: two migrations would fight over its disks.

    VMs of the same name are different VMs only if both name their moref.
    """
    problems: list[Problem] = []
    by_name: dict[str, VmSpec] = {}
    by_moref: dict[str, VmSpec] = {}
    for spec in specs:
        name, moref = spec.vm.name, spec.vm.moref
        if moref is not None and moref in by_moref:
            first = by_moref[moref]
            problems.append(_duplicate(spec, first, ("vm", "moref"), f"{moref} is given twice"))
        elif name in by_name and not (moref and by_name[name].vm.moref):
            first = by_name[name]
            problems.append(_duplicate(spec, first, ("vm", "name"), f"{name!r} is given twice"))
        by_name.setdefault(name, spec)
        if moref is not None:
            by_moref.setdefault(moref, spec)
    if problems:
        raise ConfigError(tuple(problems))


def _duplicate(spec: VmSpec, first: VmSpec, path: FieldPath, message: str) -> Problem:
    before = first.problem(("vm", "name"), "")
    hint = "Remove one of them; two VMs of one name each need their vm.moref."
    first_at = f", first in {before.source} line {before.line}"
    return spec.problem(path, message + first_at, value=spec.vm.name, hint=hint)


def _parse(text: str, source: str) -> tuple[VmSpec, ...]:
    document = parse_document(text, source)
    specs: list[VmSpec] = []
    problems: list[Problem] = []
    for value, prefix in _vm_values(document):
        try:
            spec = validate(VmSpec, document, value, prefix, Path().absolute())
        except ConfigError as exc:
            problems += exc.problems
        else:
            warnings = tuple(_id_warnings(document, spec, prefix))
            specs.append(spec.with_origin(document, prefix, warnings))
    if problems:
        raise ConfigError(tuple(problems))
    return tuple(specs)


def _vm_values(document: Document) -> Iterator[tuple[Value, FieldPath]]:
    """The VMs of a spec file: the one at the top, or those of the list under vms:."""
    top = document.value
    if not isinstance(top, dict):
        raise _refused(document, (), "must hold keys and values", _shape_hint(top))
    if "vms" not in top:
        yield top, ()
        return
    strays = [key for key in top if key != "vms"]
    if strays:
        hint = "Move it into each VM of the list."
        if strays[0] not in _SPEC_KEYS:
            hint = f"Valid keys of a VM: {', '.join(_SPEC_KEYS)}."
        raise _refused(document, (strays[0],), "is not allowed beside vms", hint)
    vms = top["vms"]
    if not isinstance(vms, list) or not vms:
        raise _refused(
            document,
            ("vms",),
            "must be a list of at least one VM",
            "Write - vm: {name: NAME} for each.",
        )
    for index, value in enumerate(vms):
        yield value, ("vms", index)


def _shape_hint(top: Value) -> str:
    return "Put the list under vms:." if isinstance(top, list) else "Begin with vm: or vms:."


def _refused(document: Document, path: FieldPath, message: str, hint: str) -> ConfigError:
    return ConfigError((document.problem(path, message, hint=hint, key=True),))


def _id_warnings(document: Document, model: BaseModel, prefix: FieldPath) -> Iterator[Problem]:
    """Ids that do not look like CloudStack's, which are UUIDs: often a name was written."""
    for name, info in type(model).model_fields.items():
        value, path = getattr(model, name), (*prefix, name)
        if isinstance(value, BaseModel):
            yield from _id_warnings(document, value, path)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from _id_warnings(document, item, (*path, key))
        elif (
            isinstance(value, str)
            and ID_MARKER in _metadata(info.annotation, info.metadata)
            and not _UUID.fullmatch(value)
        ):
            yield document.problem(
                path,
                f"{value!r} does not look like an id of CloudStack (a UUID)",
                value=value,
                hint="Names are not looked up: give the object's id.",
            )


def _metadata(annotation: object, metadata: list[object]) -> list[object]:
    """A field's annotations, also those inside ``X | None``."""
    found = list(metadata)
    for argument in getattr(annotation, "__args__", ()):
        found += getattr(argument, "__metadata__", ())
    return found
