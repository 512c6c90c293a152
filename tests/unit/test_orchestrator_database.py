"""Databases that cannot be used and of older versions; names and morefs find a migration."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

from services.orchestrator.database import tables
from services.orchestrator.database.store import Store
from services.orchestrator.errors import DatabaseUnusable


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://host/database",
        "sqlite:////proc/nowhere/v2c.sqlite3",
        "postgresql+psycopg://user:hidden@127.0.0.1:1/v2c",
    ],
)
def test_an_unusable_database_is_named_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseUnusable) as caught:
        Store(url).upgrade_schema()
    assert "hidden" not in str(caught.value)
    assert "database.url" in caught.value.hint


def test_a_migration_is_found_by_its_moref_where_a_name_is_asked_for(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/v2c.sqlite3")
    store.upgrade_schema()
    created = store.create("web01", "vm-7", "vm: {name: web01}", "spec.yaml")
    assert store.find(vm_name="vm-7") == created.id
    assert store.find(vm_name="web01") == created.id
    store.close()


def on(path: Path, work: Callable[[Connection], object]) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        work(connection)
    engine.dispose()


def upgraded_to(version: str) -> Callable[[Connection], None]:
    """Work that makes the database of an earlier version of v2c."""

    def work(connection: Connection) -> None:
        config = Config()
        schema = Path(tables.__file__).with_name("schema")
        config.set_main_option("script_location", str(schema))
        config.attributes["connection"] = connection
        command.upgrade(config, version)

    return work


def test_the_schema_is_that_of_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "v2c.sqlite3"
    store = Store(f"sqlite:///{path}")
    store.upgrade_schema()
    store.close()

    def compare(connection: Connection) -> None:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.Base.metadata) == []

    on(path, compare)


def test_open_debts_survive_an_upgrade_and_settled_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "v2c.sqlite3"
    store = Store(f"sqlite:///{path}")
    now = datetime.now(UTC)

    def fill(connection: Connection) -> None:
        columns = {
            column.name: "''" if column.type.python_type is str else "0"
            for column in tables.Migration.__table__.columns
            if not column.nullable
        }
        columns |= {"id": "'m'", "source": "'{}'", "stage_times": "'[]'", "create_time": ":now"}
        columns |= {"stage": "'delta'", "state": "'waiting'"}
        names, values = ", ".join(columns), ", ".join(columns.values())
        insert = f"INSERT INTO migrations ({names}) VALUES ({values})"  # noqa: S608
        connection.execute(text(insert), {"now": now})
        for name, settled in (("v2c-m-p0", now), ("/pool/a.qcow2", None)):
            insert = (
                "INSERT INTO debts (migration_id, kind, name, create_time, paid_time, attempts, "
                "last_error) VALUES ('m', 'image', :name, :now, :settled, 2, 'locked')"
            )
            connection.execute(text(insert), {"name": name, "now": now, "settled": settled})

    on(path, upgraded_to("0002"))
    on(path, fill)
    store.upgrade_schema()
    (debt,) = store.get("m").debts
    store.close()
    assert (debt.name, debt.attempts, debt.last_error) == ("/pool/a.qcow2", 2, "locked")
