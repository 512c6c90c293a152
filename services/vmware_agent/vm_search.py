"""Lists VMs, and finds one VM by moref, name, path or instance UUID."""

import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from services.vmware_agent.errors import (
    AmbiguousVmName,
    InvalidQuery,
    VmIdentityMismatch,
    VmNotFound,
)
from services.vmware_agent.ports import VCenter
from services.vmware_agent.vm import Vm, VmEntry, unescape_name

DEFAULT_PAGE_SIZE = 500
LARGEST_PAGE_SIZE = 5000
_NEAREST_NAMES = 5


@dataclass(frozen=True)
class VmPage:
    """One page of a listing. The next page starts after `next_after`; None on the last page."""

    vms: tuple[Vm, ...]
    total_count: int
    next_after: str | None


async def list_vms(
    vcenter: VCenter, *, text: str = "", page_size: int = 0, after: str = ""
) -> VmPage:
    """VMs (no templates) whose name or path contains `text`, case ignored, ordered by path.

    `after` is the `next_after` of the page before: the listing continues after it, even if VMs were
    added or removed meanwhile. `page_size` 0 means 500. Raises InvalidQuery above 5,000.
    """
    if not 0 <= page_size <= LARGEST_PAGE_SIZE:
        raise InvalidQuery(
            message=f"page_size {page_size} is not between 0 and {LARGEST_PAGE_SIZE}",
            hint="request smaller pages and follow next_page_token",
        )
    wanted = _fold(text)
    matching = sorted(
        (_sort_key(entry), entry.moref)
        for entry in await vcenter.list_entries()
        if not entry.template and (wanted in _fold(entry.name) or wanted in _fold(entry.path))
    )
    remaining = [one for one in matching if one[0] > after]
    page = remaining[: page_size or DEFAULT_PAGE_SIZE]
    vms = await vcenter.get_vms([moref for _, moref in page])
    return VmPage(tuple(vms), len(matching), page[-1][0] if len(remaining) > len(page) else None)


async def find_vm(
    vcenter: VCenter, *, moref: str = "", name: str = "", instance_uuid: str = ""
) -> Vm:
    """The one VM that matches all the given values.

    `name` is a name, unescaped or escaped as in vCenter, or a path starting with "/". Names are
    compared exactly first and, if none is equal, without case. Raises InvalidQuery, VmNotFound
    (with the nearest names), AmbiguousVmName (with the candidates) and VmIdentityMismatch.
    """
    if moref:
        vm = await vcenter.get_vm(moref)
    elif instance_uuid or name:
        entries = await vcenter.list_entries()
        if instance_uuid:
            entry = _only(instance_uuid, [e for e in entries if _same_uuid(e, instance_uuid)])
        else:
            entry = _only(name, _named(entries, name))
        if entry is None:
            raise _not_found(entries, name, instance_uuid)
        vm = await vcenter.get_vm(entry.moref)
    else:
        raise InvalidQuery(message="neither moref nor name nor instance UUID of a VM is given")
    _check_identity(vm, name, instance_uuid)
    return vm


def _sort_key(entry: VmEntry) -> str:
    """A unique sort key. The path alone is not one: VMs of a vApp may have the same name."""
    return f"{entry.path}\0{entry.moref}"


def _normal(text: str) -> str:
    """The Unicode normal form: é, for example, can be one code point or two."""
    return unicodedata.normalize("NFC", text)


def _fold(text: str) -> str:
    return _normal(text).casefold()


def _same_uuid(entry: VmEntry, instance_uuid: str) -> bool:
    return entry.instance_uuid.lower() == instance_uuid.strip().lower()


def _named(entries: Sequence[VmEntry], name: str) -> list[VmEntry]:
    """Entries with this name or path: exact matches, else those that differ in case only."""
    for form in (_normal, _fold):
        if name.startswith("/"):
            found = [e for e in entries if form(e.path) == form(name.rstrip("/"))]
        else:
            wanted = {form(name), form(unescape_name(name))}
            found = [e for e in entries if form(e.name) in wanted]
        # A template cannot be migrated, so a template with a VM's name does not make it ambiguous.
        machines = [e for e in found if not e.template]
        if machines:
            return machines
    return []


def _only(name: str, found: Sequence[VmEntry]) -> VmEntry | None:
    if len(found) > 1:
        raise AmbiguousVmName.of(name, tuple(sorted(found, key=_sort_key)))
    return found[0] if found else None


def _not_found(entries: Sequence[VmEntry], name: str, instance_uuid: str) -> VmNotFound:
    if instance_uuid:
        return VmNotFound(
            message=f"vCenter has no VM with instance UUID {instance_uuid}",
            metadata={"instance_uuid": instance_uuid},
        )
    by_folded = {_fold(e.name): e.name for e in entries if not e.template}
    wanted = _fold(name.rsplit("/", 1)[-1])
    nearest = [
        by_folded[folded]
        for folded in difflib.get_close_matches(wanted, by_folded, n=_NEAREST_NAMES, cutoff=0.6)
    ]
    suggestion = f"; the nearest names are {', '.join(map(repr, nearest))}" if nearest else ""
    return VmNotFound(
        message=f"vCenter has no VM named {name!r}{suggestion}",
        metadata={"name": name, "nearest": ",".join(nearest)},
    )


def _check_identity(vm: Vm, name: str, instance_uuid: str) -> None:
    """Raise VmIdentityMismatch unless the VM also has the given name and instance UUID."""
    entry = VmEntry(vm.moref, vm.instance_uuid, vm.name, vm.path, vm.template)
    if instance_uuid and not _same_uuid(entry, instance_uuid):
        raise VmIdentityMismatch(
            message=f"VM {vm.moref} ({vm.path}) has instance UUID {vm.instance_uuid}, "
            f"not {instance_uuid}",
            metadata={"moref": vm.moref, "name": vm.name},
        )
    # A template's name is not compared, so that preflight can report that it is a template.
    if name and not vm.template and not _named([entry], name):
        raise VmIdentityMismatch(
            message=f"VM {vm.moref} is named {vm.name!r} ({vm.path}), not {name!r}",
            metadata={"moref": vm.moref, "name": vm.name},
        )
