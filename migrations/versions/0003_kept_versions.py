"""Model versions that are kept on disk, and what their aliases name"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("model_versions") as table:
        table.drop_constraint("uq_model_versions_fingerprint", type_="unique")
        table.add_column(sa.Column("digest", sa.String(64), nullable=True))
        table.add_column(sa.Column("parent", sa.Integer(), nullable=True))
        table.add_column(sa.Column("base", sa.Integer(), nullable=True))
        table.add_column(sa.Column("dataset_id", sa.String(64), nullable=True))
        table.add_column(sa.Column("job_id", sa.String(64), nullable=True))
        table.add_column(
            sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0")
        )
        table.add_column(sa.Column("manifest", sa.JSON(), nullable=False, server_default="{}"))
        table.add_column(sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
        table.create_unique_constraint("uq_model_versions_digest", ["name", "digest"])
    # what was numbered before was not kept; it leaves its number behind
    op.execute("UPDATE model_versions SET deleted_at = created_at")
    with op.batch_alter_table("model_versions") as table:
        table.drop_column("fingerprint")
        table.alter_column("size_bytes", server_default=None)
        table.alter_column("manifest", server_default=None)
    op.create_index("ix_model_versions_dataset_id", "model_versions", ["dataset_id"])
    op.create_table(
        "model_aliases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("alias", sa.String(32), primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("previous", sa.Integer(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_by", sa.String(128), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("model_aliases")
    op.drop_index("ix_model_versions_dataset_id", "model_versions")
    with op.batch_alter_table("model_versions") as table:
        table.add_column(sa.Column("fingerprint", sa.String(64), nullable=True))
    # without its content a number means nothing, but it must not come twice
    op.execute("UPDATE model_versions SET fingerprint = 'gone ' || id")
    with op.batch_alter_table("model_versions") as table:
        table.drop_constraint("uq_model_versions_digest", type_="unique")
        for column in ("digest", "parent", "base", "dataset_id", "job_id"):
            table.drop_column(column)
        for column in ("size_bytes", "manifest", "deleted_at"):
            table.drop_column(column)
        table.alter_column("fingerprint", existing_type=sa.String(64), nullable=False)
        table.create_unique_constraint("uq_model_versions_fingerprint", ["name", "fingerprint"])
