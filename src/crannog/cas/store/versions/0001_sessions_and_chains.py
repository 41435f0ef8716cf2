"""Sessions, secrets, the CAS's keys, both chains and the state that binds them.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("database", sa.LargeBinary(16), nullable=False),
        sa.Column("key_check", sa.LargeBinary(16), nullable=False),
        sa.Column("minimum_level", sa.String(16), nullable=False),
        sa.Column("authority", sa.LargeBinary(32), nullable=False),
        sa.Column("versions", sa.BigInteger, nullable=False),
        sa.Column("versions_mac", sa.LargeBinary(32), nullable=False),
        sa.Column("audit", sa.BigInteger, nullable=False),
        sa.Column("audit_mac", sa.LargeBinary(32), nullable=False),
        sa.Column("mac", sa.LargeBinary(32), nullable=False),
        sa.CheckConstraint("id = 1", name="one_state"),
    )
    op.create_table(
        "authority",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("certificate", sa.LargeBinary, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("sequence", _sequence, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("predecessor", sa.String(64), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("document_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("secrets_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("mac", sa.LargeBinary(32), nullable=False),
        sa.UniqueConstraint("name", "number", name="linear_history"),
    )
    op.create_table(
        "sealed",
        sa.Column("sequence", _sequence, primary_key=True, autoincrement=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("secrets", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("sequence", _sequence, primary_key=True, autoincrement=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("mac", sa.LargeBinary(32), nullable=False),
    )
