from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from crannog.cas.store import database, schema
from tests.unit.cas.support import opened

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # the library is not typed there


def test_the_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    opened(tmp_path).close()
    engine = database.connect(tmp_path / "cas.db")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_a_current_database_is_not_migrated_again(tmp_path: Path) -> None:
    opened(tmp_path).close()
    before = (tmp_path / "cas.db").read_bytes()
    engine = database.connect(tmp_path / "cas.db")
    with engine.connect() as connection, connection.begin():
        schema.migrate(connection, where="here")
    engine.dispose()
    assert (tmp_path / "cas.db").read_bytes() == before


def test_the_tables_can_be_postgresqls() -> None:
    for table in schema.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=DIALECT))


def test_the_settings_that_make_commits_durable(tmp_path: Path) -> None:
    opened(tmp_path).close()
    engine = database.connect(tmp_path / "cas.db")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    engine.dispose()
