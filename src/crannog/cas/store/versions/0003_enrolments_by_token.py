"""LASes enrolled by token: what the token said, with the entry.

Only a column is added, empty for every entry that is there: the digest over those entries, and with
it the state row's MAC, is what it was.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accepted", sa.Column("enrolment", sa.Text, nullable=False, server_default=""))
