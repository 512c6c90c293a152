"""A database that cannot be used is told in one paragraph; names and morefs find a migration."""

from pathlib import Path

import pytest

from services.orchestrator.errors import DatabaseUnusable
from services.orchestrator.store import Store


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
