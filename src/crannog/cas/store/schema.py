"""The tables, as SQLAlchemy Core sees them. How they came about: `versions/`.

Types and constraints are those that SQLite and PostgreSQL share.
"""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Connection

from crannog.errors import Misconfigured

metadata = MetaData()

# SQLite counts rows by INTEGER only.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

state = Table(
    "state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("database", LargeBinary(16), nullable=False),
    Column("key_check", LargeBinary(16), nullable=False),
    Column("minimum_level", String(16), nullable=False),
    Column("authority", LargeBinary(32), nullable=False),
    Column("versions", BigInteger, nullable=False),
    Column("versions_mac", LargeBinary(32), nullable=False),
    Column("audit", BigInteger, nullable=False),
    Column("audit_mac", LargeBinary(32), nullable=False),
    Column("mac", LargeBinary(32), nullable=False),
    CheckConstraint("id = 1", name="one_state"),
)

authority = Table(
    "authority",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("certificate", LargeBinary, nullable=False),
    Column("key", LargeBinary, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=False),
    Column("name", String(512), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("predecessor", String(64), nullable=False),
    Column("created", String(32), nullable=False),
    Column("document_digest", LargeBinary(32), nullable=False),
    Column("secrets_digest", LargeBinary(32), nullable=False),
    Column("mac", LargeBinary(32), nullable=False),
    # Two writers of one successor cannot both succeed, whatever the code above believes.
    UniqueConstraint("name", "number", name="linear_history"),
)

# Apart from `versions`, so that reading the whole chain at start does not read every document.
sealed = Table(
    "sealed",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=False),
    Column("document", LargeBinary, nullable=False),
    Column("secrets", LargeBinary, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=False),
    Column("record", LargeBinary, nullable=False),
    Column("mac", LargeBinary(32), nullable=False),
)

accepted = Table(
    "accepted",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("value", String(64), primary_key=True),
    Column("note", String(200), nullable=False),
    Column("added", String(32), nullable=False),
    Column("enrolment", Text, nullable=False, server_default=""),
)

_SCRIPTS = Path(__file__).parent


def migrate(connection: Connection, *, where: str) -> None:
    """Bring the database to the schema of this release, inside the caller's transaction.

    Raises:
        Misconfigured: a newer release than this one has written it.
    """
    script = check_schema(connection, where=where)
    environment = EnvironmentContext(
        Config(), script, fn=lambda revision, _: script._upgrade_revs("head", revision)
    )
    with environment:
        environment.configure(connection=connection, target_metadata=metadata)
        environment.run_migrations()


def check_schema(connection: Connection, *, where: str) -> ScriptDirectory:
    """The migrations, where the database's schema is one that they know.

    Raises:
        Misconfigured: it is not.
    """
    script = ScriptDirectory(str(_SCRIPTS), version_locations=[str(_SCRIPTS / "versions")])
    current = MigrationContext.configure(connection).get_current_heads()
    known = {revision.revision for revision in script.walk_revisions()}
    unknown = [revision for revision in current if revision not in known]
    if unknown:
        raise Misconfigured(
            f"{where} has schema version {unknown[0]!r}, expected at most "
            f"{script.get_current_head()!r}: a newer release has written it",
            hint="run that release or a later one; nothing was changed",
        )
    return script
