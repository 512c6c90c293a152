"""Finds the migration that a caller names by id, moref or machine name."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from services.orchestrator.database import tables
from services.orchestrator.errors import AmbiguousMigration, Candidate, MigrationNotFound
from services.orchestrator.stages import TERMINAL, Stage, State

__all__ = ["find_by_any", "find_by_vm"]


def find_by_vm(session: Session, vm_moref: str, vm_name: str) -> str:
    """The id of the migration of the machine with this moref and this name; either may be "".

    Of several migrations of one machine it is the newest that has not ended, or if all have ended
    the newest. Raises MigrationNotFound, AmbiguousMigration.
    """
    wanted = " ".join(filter(None, (vm_name, vm_moref)))
    if not wanted:
        raise MigrationNotFound(message="neither a moref nor a name of a machine is given")
    conditions = []
    if vm_moref:
        conditions.append(tables.Migration.vm_moref == vm_moref)
    if vm_name:
        # Callers may give the moref in the name's field.
        conditions.append(
            or_(tables.Migration.vm_name == vm_name, tables.Migration.vm_moref == vm_name)
        )
    found = _not_ended(_newest_first(session, *conditions))
    if not found:
        raise MigrationNotFound(message=f"there is no migration of {wanted}")
    if _machines(found) > 1:
        raise AmbiguousMigration(wanted, tuple(reversed(found)))
    return found[0].id


def find_by_any(session: Session, text: str) -> str:
    """The id of the one migration whose id, or whose machine's moref or name, is `text`.

    Of several migrations of one machine `find_by_vm`'s rule chooses. Raises MigrationNotFound, and
    AmbiguousMigration also when `text` is one machine's moref and another machine's name.
    """
    fits = or_(
        tables.Migration.id == text,
        tables.Migration.vm_moref == text,
        tables.Migration.vm_name == text,
    )
    rows = _newest_first(session, fits)
    by_moref = _not_ended([row for row in rows if row.vm_moref == text])
    named = [row for row in rows if text in (row.vm_moref, row.vm_name)]
    by_name = _not_ended(named)
    meant = {row.id for row in (*by_moref[:1], *by_name[:1])}
    if _machines(by_name) > 1:
        meant = {row.id for row in named}
    meant |= {row.id for row in rows if row.id == text}
    if not meant:
        raise MigrationNotFound(message=f"there is no migration of {text}")
    if len(meant) > 1:
        oldest_first = tuple(row for row in reversed(rows) if row.id in meant)
        raise AmbiguousMigration(text, oldest_first)
    return meant.pop()


def _newest_first(session: Session, *conditions: Any) -> list[Candidate]:
    """The migrations that meet the conditions, newest first, without their disks and passes."""
    query = select(
        tables.Migration.id,
        tables.Migration.vm_name,
        tables.Migration.vm_moref,
        tables.Migration.stage,
        tables.Migration.state,
    ).where(*conditions)
    rows = session.execute(query.order_by(tables.Migration.create_time.desc()))
    return [
        Candidate(row.id, row.vm_name, row.vm_moref, Stage(row.stage), State(row.state))
        for row in rows
    ]


def _not_ended(found: Sequence[Candidate]) -> list[Candidate]:
    """The migrations that have not ended, or all if every one has ended."""
    return [each for each in found if each.state not in TERMINAL] or list(found)


def _machines(found: Sequence[Candidate]) -> int:
    """The number of different machines among these migrations."""
    return len({each.vm_moref or each.id for each in found})
