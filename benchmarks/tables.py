"""What is landed: tables as applications have them, made by the source itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of a benchmark."""

    name: str
    columns: str
    """As CREATE TABLE writes them, the key left out."""
    values: str
    """A SELECT list over `i`, the number of the row."""
    rows: int
    """At scale 1."""

    @property
    def create(self) -> str:
        """Returns the statement that makes it, without a key."""
        return f"CREATE TABLE public.{self.name} ({self.columns})"

    def fill(self, rows: int) -> str:
        """Returns the statements that fill it with so many rows and give it its key."""
        return (
            f"INSERT INTO public.{self.name} SELECT {self.values} "
            f"FROM generate_series(1, {rows}) AS i;\n"
            f"ALTER TABLE public.{self.name} ADD PRIMARY KEY (id);\n"
            f"VACUUM (FREEZE, ANALYZE) public.{self.name}"
        )


USERS = Table(
    "users",
    "id bigint NOT NULL, public_id uuid NOT NULL, email text NOT NULL, full_name text,"
    " balance numeric(12, 2) NOT NULL, is_active boolean NOT NULL, tags text[] NOT NULL,"
    " profile jsonb NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL",
    "i, md5(i::text)::uuid, 'user' || i || '@example.com', 'Name ' || md5((i * 7)::text),"
    " (i % 1000000) / 100.0, i % 3 = 0, ARRAY['tag' || i % 10, 'tag' || i % 7],"
    " jsonb_build_object('plan', i % 5, 'city', 'city ' || i % 300, 'score', i * 0.5,"
    " 'flags', jsonb_build_array(i % 2, i % 3)),"
    " timestamptz '2024-01-01' + i * interval '13 seconds',"
    " timestamptz '2025-01-01' + i * interval '1 second'",
    rows=5_000_000,
)
EVENTS = Table(
    "events",
    "id bigint NOT NULL, user_id bigint NOT NULL, kind smallint NOT NULL, amount integer NOT NULL,"
    " happened_at timestamptz NOT NULL",
    "i, i % 5000000, i % 12, i % 100000, timestamptz '2025-01-01' + i * interval '1 second'",
    rows=10_000_000,
)
WIDE = Table(
    "wide",
    "id bigint NOT NULL, document text NOT NULL, payload bytea NOT NULL",
    "i, (SELECT string_agg(md5((i * 100 + n)::text), '') FROM generate_series(1, 300) AS n),"
    " decode((SELECT string_agg(md5((i * 200 + n)::text), '') FROM generate_series(1, 300) AS n),"
    " 'hex')",
    rows=50_000,
)
SMALL_TABLES = 500
SMALL_ROWS = 100


def small(number: int) -> Table:
    """Returns one of the many small tables."""
    return Table(
        f"small_{number}",
        "id bigint NOT NULL, name text NOT NULL, updated_at timestamptz NOT NULL",
        "i, 'name ' || i, timestamptz '2025-01-01' + i * interval '1 second'",
        rows=SMALL_ROWS,
    )
