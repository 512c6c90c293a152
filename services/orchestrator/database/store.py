"""The orchestrator's database: transactions, snapshots, audit events, listeners.

Every change of a migration goes through `Store.change`: one transaction, one new revision, then
state.json and the listeners. All methods block; call them from a thread.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Engine, create_engine, event, or_, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import Session, lazyload

from services.orchestrator.clock import Clock, utc_now
from services.orchestrator.database import tables
from services.orchestrator.database.lookup import find_by_any, find_by_vm
from services.orchestrator.database.runtime_dir import RuntimeDir
from services.orchestrator.database.views import (
    EventView,
    MigrationView,
    event_view,
    exported,
    view,
)
from services.orchestrator.errors import DatabaseUnusable, MigrationNotFound
from services.orchestrator.stages import TERMINAL, State

__all__ = ["Listener", "Store", "add_event"]

Listener = Callable[[MigrationView], None]
ORCHESTRATOR = "orchestrator"
# After these the machine is back at the source and may be migrated again.
_UNDONE = (State.CANCELLED, State.ROLLED_BACK)

_log = structlog.stdlib.get_logger(__name__)


def add_event(
    session: Session,
    clock: Clock,
    migration: tables.Migration | None,
    action: str,
    message: str,
    *,
    actor: str = ORCHESTRATOR,
    **details: Any,
) -> None:
    """Add an audit event to the transaction."""
    session.add(
        tables.Event(
            time=clock(),
            migration_id=migration.id if migration else "",
            vm_name=migration.vm_name if migration else "",
            action=action,
            message=message,
            actor=actor,
            details=details,
        )
    )


class Store:
    """The database behind one orchestrator. `url` is an SQLAlchemy URL."""

    def __init__(self, url: str, clock: Clock = utc_now) -> None:
        self.clock = clock
        self._engine = _engine(url)
        # SQLite has one writer; waiting here costs less than its busy handler's polling.
        self._writer = threading.RLock()
        self._listeners: list[Listener] = []

    def upgrade_schema(self) -> None:
        """Bring the schema to this version. Raises DatabaseUnusable."""
        config = AlembicConfig()
        config.set_main_option("script_location", str(Path(__file__).with_name("schema")))
        try:
            with self._engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except OperationalError as exc:
            raise DatabaseUnusable(message=f"the database cannot be used: {exc.orig}") from exc

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` (from any thread) after each change.

        Returns a function that unsubscribes.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A write transaction."""
        session = Session(self._engine, expire_on_commit=False)
        with self._writer, session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read transaction."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def change(self, migration_id: str) -> Iterator[tuple[Session, tables.Migration]]:
        """Change one migration; its row is committed as a new revision when the block ends."""
        with self._writer:
            with self.transaction() as session:
                # Disks, passes, jobs and debts are loaded on use; most changes use few of them.
                row = session.get(
                    tables.Migration,
                    migration_id,
                    with_for_update=True,
                    options=[lazyload("*")],
                )
                if row is None:
                    raise MigrationNotFound(message=f"there is no migration {migration_id}")
                yield session, row
                row.revision += 1
                session.flush()
                # Rows may have been added to the relationships: load them again.
                session.expire(row, ["disks", "passes", "jobs", "debts"])
                snapshot = view(row, self.clock())
            self.publish(snapshot)

    def publish(self, snapshot: MigrationView) -> None:
        """Write state.json and call the listeners.

        A state.json that cannot be written is only logged.
        """
        if snapshot.runtime_dir and not self._superseded(snapshot):
            try:
                RuntimeDir(Path(snapshot.runtime_dir)).write_state(exported(snapshot))
            except OSError as exc:
                _log.warning(
                    "state.json could not be written",
                    action="state.export_failed",
                    migration_id=snapshot.id,
                    error=str(exc),
                )
        for listener in tuple(self._listeners):
            listener(snapshot)

    def _superseded(self, snapshot: MigrationView) -> bool:
        """Whether the runtime directory now belongs to a later migration of the machine."""
        if snapshot.state not in _UNDONE:
            return False
        later = select(tables.Migration.id).where(
            tables.Migration.runtime_dir == snapshot.runtime_dir,
            tables.Migration.create_time > snapshot.create_time,
        )
        with self.reading() as session:
            return session.execute(later.limit(1)).first() is not None

    def create(self, vm_name: str, vm_moref: str, spec: str, spec_source: str) -> MigrationView:
        """Create a migration in stage init, not started."""
        return self.create_all([(vm_name, vm_moref, spec)], spec_source)[0]

    def create_all(
        self, machines: Sequence[tuple[str, str, str]], spec_source: str
    ) -> tuple[MigrationView, ...]:
        """Create migrations from (name, moref, spec) triples, all in one transaction.

        A transaction per machine would, for a thousand machines, take longer than callers wait.
        """
        with self.transaction() as session:
            rows = [
                tables.Migration(
                    id=uuid.uuid4().hex,
                    vm_name=vm_name,
                    vm_moref=vm_moref,
                    spec=spec,
                    spec_source=spec_source,
                    create_time=self.clock(),
                    activity="submitted, not started",
                    # Set, because SQLAlchemy would otherwise query each relationship.
                    disks=[],
                    passes=[],
                    jobs=[],
                    debts=[],
                )
                for vm_name, vm_moref, spec in machines
            ]
            session.add_all(rows)
            session.flush()
            for row in rows:
                text = f"{row.vm_name} was submitted"
                add_event(session, self.clock, row, "migration.created", text)
            snapshots = tuple(view(row, self.clock()) for row in rows)
        for snapshot in snapshots:
            self.publish(snapshot)
        return snapshots

    def get(self, migration_id: str) -> MigrationView:
        """A migration by id. Raises MigrationNotFound."""
        with self.reading() as session:
            row = session.get(tables.Migration, migration_id)
            if row is None:
                raise MigrationNotFound(message=f"there is no migration {migration_id}")
            return view(row, self.clock())

    def vm_name_of(self, migration_id: str) -> str:
        """The name of a migration's machine."""
        with self.reading() as session:
            query = select(tables.Migration.vm_name)
            return session.scalars(query.where(tables.Migration.id == migration_id)).one()

    def spec_of(self, migration_id: str) -> tuple[State, str]:
        """A migration's state, and its spec as last submitted."""
        with self.reading() as session:
            query = select(tables.Migration.state, tables.Migration.spec)
            row = session.execute(query.where(tables.Migration.id == migration_id)).one()
            return State(row.state), row.spec

    def find(
        self, *, migration_id: str = "", vm_moref: str = "", vm_name: str = "", any_of: str = ""
    ) -> str:
        """The id of the one migration with this id, else of the machine with this moref and name.

        `any_of` is an id, a moref or a name. Raises MigrationNotFound, AmbiguousMigration.
        """
        if migration_id:
            return self.get(migration_id).id
        with self.reading() as session:
            if any_of and not (vm_moref or vm_name):
                return find_by_any(session, any_of)
            return find_by_vm(session, vm_moref, vm_name)

    def open_for(self, vm_name: str, vm_moref: str) -> str | None:
        """The id of the migration of this machine that is under way or done, if there is one."""
        with self.reading() as session:
            query = select(tables.Migration).where(tables.Migration.state.not_in(_UNDONE))
            if vm_moref:
                same = tables.Migration.vm_moref == vm_moref
                unknown = (tables.Migration.vm_moref == "") & (tables.Migration.vm_name == vm_name)
                query = query.where(or_(same, unknown))
            else:
                query = query.where(tables.Migration.vm_name == vm_name)
            row = session.scalars(query.order_by(tables.Migration.create_time.desc())).first()
            return row.id if row else None

    def other_open(self, migration_id: str, vm_moref: str) -> str | None:
        """The id of another migration of this machine, under way or done, if there is one."""
        with self.reading() as session:
            query = select(tables.Migration.id).where(
                tables.Migration.vm_moref == vm_moref,
                tables.Migration.id != migration_id,
                tables.Migration.state.not_in(_UNDONE),
            )
            return session.scalars(query).first()

    def runtime_dirs(self) -> tuple[tuple[str, str], ...]:
        """(migration id, runtime directory) of migrations that have not ended."""
        with self.reading() as session:
            query = select(tables.Migration.id, tables.Migration.runtime_dir).where(
                tables.Migration.state.not_in(TERMINAL), tables.Migration.runtime_dir != ""
            )
            return tuple((row.id, row.runtime_dir) for row in session.execute(query))

    def records_in_use(self) -> tuple[Sequence[str], Sequence[str]]:
        """The image paths and the range set ids of the migrations that have not ended."""
        open_ = select(tables.Migration.id).where(tables.Migration.state.not_in(TERMINAL))
        images = select(tables.Disk.image_path).where(
            tables.Disk.migration_id.in_(open_), tables.Disk.image_path != ""
        )
        ranges = select(tables.PassDisk.ranges_id).where(
            tables.PassDisk.migration_id.in_(open_), tables.PassDisk.ranges_id != ""
        )
        with self.reading() as session:
            return session.scalars(images).all(), session.scalars(ranges).all()

    def list(
        self, *, states: Sequence[str] = (), after: str = "", limit: int = 500
    ) -> tuple[MigrationView, ...]:
        """Migrations in the order they were submitted, after the id `after`."""
        with self.reading() as session:
            query = select(tables.Migration).order_by(
                tables.Migration.create_time, tables.Migration.id
            )
            if states:
                query = query.where(tables.Migration.state.in_(states))
            if after:
                last = session.get(tables.Migration, after)
                if last is None:
                    raise MigrationNotFound(message=f"there is no migration {after}")
                query = query.where(
                    or_(
                        tables.Migration.create_time > last.create_time,
                        (tables.Migration.create_time == last.create_time)
                        & (tables.Migration.id > after),
                    )
                )
            now = self.clock()
            return tuple(view(row, now) for row in session.scalars(query.limit(limit)))

    def events(
        self, migration_id: str = "", after_sequence: int = 0, limit: int = 500
    ) -> tuple[EventView, ...]:
        """Audit events, oldest first, of one migration or of all."""
        with self.reading() as session:
            query = select(tables.Event).where(tables.Event.sequence > after_sequence)
            if migration_id:
                query = query.where(tables.Event.migration_id == migration_id)
            rows = session.scalars(query.order_by(tables.Event.sequence).limit(limit))
            return tuple(event_view(row) for row in rows)

    def setting(self, name: str, default: str) -> str:
        """A value that an operator set at run time."""
        with self.reading() as session:
            row = session.get(tables.Setting, name)
            return row.value if row else default

    def set_setting(self, name: str, value: str) -> None:
        """Store a value that an operator set at run time."""
        with self.transaction() as session:
            session.merge(tables.Setting(name=name, value=value))


def _engine(url: str) -> Engine:
    """SQLAlchemy's engine for `url`. Raises DatabaseUnusable for a URL that is not usable."""
    try:
        # Raises for another dialect or a driver that is not installed, as create_engine does.
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, pool_pre_ping=True, pool_size=20)
    except (ArgumentError, ImportError) as exc:
        raise DatabaseUnusable(message="database.url is no URL of a database known here") from exc
    if parsed.database:
        try:
            Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise DatabaseUnusable(message=f"the database cannot be made: {exc}") from exc
    engine = create_engine(parsed, connect_args={"timeout": 30}, pool_size=20)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        # With WAL readers do not block on the writer; with FULL a commit survives a power loss.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # Under the driver's own deferred BEGIN a transaction that writes after reading fails with
        # BUSY.
        connection.exec_driver_sql("BEGIN")

    return engine
