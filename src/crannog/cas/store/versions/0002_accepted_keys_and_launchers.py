"""Enrolled LAS keys and accepted launcher releases.

Only a table is added: the state row's MAC of a database without entries is what it was, so that
nothing has to be authenticated anew by a migration, which has no keys.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accepted",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("value", sa.String(64), primary_key=True),
        sa.Column("note", sa.String(200), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
    )
