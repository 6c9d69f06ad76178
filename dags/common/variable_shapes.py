"""What the six Airflow Variables of the central settings may hold.

Pure: documents in, problems out. The keys of a table are the engine's own and checked by it.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from common.documents import Document
from extract_load import Problem, RunSettings, SizeDefaults, problems_of

Shape = TypeVar("Shape")

_STRICT_KEYS = ConfigDict(extra="forbid")
_PASSWORD_IN_URI = re.compile(r"://[^\s/@:]*:[^\s@]+@")


def _addresses(value: object) -> object:
    return (value,) if isinstance(value, str) else () if value is None else value


_AS_ADDRESSES = BeforeValidator(_addresses, json_schema_input_type=str | list[str] | None)


@dataclass(frozen=True, kw_only=True)
class DagConfig(RunSettings):
    """A DAG: when it runs and what its runs may take."""

    schedule: str | None = None
    """Cron expression. As declared: it is read while the DAG file is parsed."""
    timezone: str | None = None
    """Time zone of the schedule. As declared."""
    description: str | None = None
    """For people."""


@dataclass(frozen=True, kw_only=True)
class ConnectionConfig:
    """A connection, described. Host, user and password are Airflow's Connection."""

    __pydantic_config__: ClassVar[Any] = _STRICT_KEYS

    description: str = ""
    """For people."""


@dataclass(frozen=True, kw_only=True)
class MonitoringThresholds:
    """When somebody is told, and who. Null: never, nobody."""

    __pydantic_config__: ClassVar[Any] = _STRICT_KEYS

    max_execution_seconds: Annotated[int, Field(ge=1)] | None = None
    """A load that takes longer is ended; also told when a table's last run took longer."""
    min_success_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the last runs of a table that were done."""
    max_error_count: Annotated[int, Field(ge=0)] | None = None
    """Failed runs of a table among its last ones."""
    max_memory_mb: Annotated[int, Field(ge=1)] | None = None
    """MiB that the process of a table's last run held at most."""
    max_age_seconds: Annotated[int, Field(ge=1)] | None = None
    """Time since the last publish of a table."""
    over_last_runs: Annotated[int, Field(ge=1)] = 20
    """How many runs min_success_rate and max_error_count look back."""
    email: Annotated[tuple[str, ...], _AS_ADDRESSES] = ()
    """Who gets a mail: one address or a list."""
    webhook_conn_id: str | None = None
    """Connection id of a Slack-compatible webhook; its URL is a secret."""


@dataclass(frozen=True, kw_only=True)
class MonitoringConfig(MonitoringThresholds):
    """The thresholds of all DAGs, and what differs in some."""

    dags: Mapping[str, MonitoringThresholds] = field(default_factory=dict)
    """By DAG id."""


class Size(StrEnum):
    """How large a table is, by its rows."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"
    XLARGE = "xlarge"


@dataclass(frozen=True, kw_only=True)
class DbtConfig:
    """How dbt is run."""

    __pydantic_config__: ClassVar[Any] = _STRICT_KEYS

    dbt_target: str = "dev"
    """An output of profiles.yml; DBT_TARGET in the environment wins over what is declared."""
    select: tuple[str, ...] = ()
    """dbt selectors of what is built; empty: everything."""
    full_refresh: bool = False
    """Whether incremental models are built from scratch."""
    threads: Annotated[int, Field(ge=1, le=64)] = 4
    """Models built at the same time."""


_CREDENTIALS = (
    "host", "port", "schema", "database", "login", "user", "username", "password", "extra", "uri",
)  # fmt: skip
_NOT_DESCRIBED = {
    **dict.fromkeys(_CREDENTIALS, "belongs in the Airflow Connection of this id; remove it here."),
    **dict.fromkeys(("usage_count", "dag_dependencies"), "is computed; remove the key."),
}

VARIABLES = (
    "dag_configs",
    "connection_configs",
    "table_configs",
    "execution_monitoring_configs",
    "chunk_mode_configs",
    "dbt_configs",
)
"""In the order of the guide."""


def read_document(name: str, text: str, problems: list[Problem]) -> Document:
    """Returns what a Variable holds; an empty document, with a problem, when nobody can tell.

    Args:
        name: Of the Variable.
        text: Its value.
        problems: Gets what is wrong.
    """
    try:
        document = json.loads(text, object_pairs_hook=_no_key_twice)
    except ValueError as exc:
        problems.append(Problem(name, "", f"is no JSON: {exc}."))
        return {}
    if not isinstance(document, dict):
        problems.append(Problem(name, "", 'should be a mapping: write "{...}".'))
        return {}
    return document


def problems_of_shape(name: str, document: Document) -> list[Problem]:
    """Returns everything that is wrong with a Variable, whatever the repository declares."""
    return list(passwords(name, document)) or list(_SHAPES[name](name, document))


def problems_of_keys(shape: type, label: str, keys: object) -> list[Problem]:
    """Returns what a mapping of keys gets wrong.

    Args:
        shape: One of the classes of this module, or `SizeDefaults`.
        label: What the keys belong to.
        keys: The mapping.
    """
    if not isinstance(keys, dict):
        return [Problem(label, "", "should be a mapping of keys.")]
    # Alone: another problem would repeat the value.
    if leaked := list(passwords(label, keys)):
        return leaked
    known = {item.name for item in fields(shape)}
    try:
        TypeAdapter(shape).validate_python(keys)
    except ValidationError as exc:
        return problems_of(exc, label, known)
    return []


def thresholds_of(dag_id: str, document: Document) -> Document:
    """Returns the thresholds of a DAG: those of all, and over them what differs for it.

    Args:
        dag_id: The DAG.
        document: Checked, as `execution_monitoring_configs` holds it.
    """
    of_all = {key: value for key, value in document.items() if key != "dags"}
    return {**of_all, **document.get("dags", {}).get(dag_id, {})}


def value_of(shape: type[Shape], keys: Document) -> Shape:
    """Returns the value that checked keys stand for."""
    value: Shape = TypeAdapter(shape).validate_python(keys)
    return value


def _check_connections(label: str, document: Document) -> Iterator[Problem]:
    for conn_id, keys in document.items():
        yield from problems_of_description(conn_id, keys, label)


def problems_of_description(
    conn_id: str, keys: object, label: str = "connection_configs"
) -> Iterator[Problem]:
    """Yields what the description of a connection gets wrong."""
    for problem in problems_of_keys(ConnectionConfig, f"{label}.{conn_id}", keys):
        told = _NOT_DESCRIBED.get(problem.key)
        yield replace(problem, primary=told) if told else problem


def _check_each(shape: type) -> Callable[[str, Document], Iterator[Problem]]:
    """A check of a mapping whose values all have one shape."""

    def check(label: str, document: Document) -> Iterator[Problem]:
        for name, keys in document.items():
            yield from problems_of_keys(shape, f"{label}.{name}", keys)

    return check


def _check_monitoring(label: str, document: Document) -> Iterator[Problem]:
    by_dag = document.get("dags", {})
    yield from problems_of_keys(MonitoringConfig, label, {**document, "dags": {}})
    if isinstance(by_dag, dict):
        yield from _check_each(MonitoringThresholds)(f"{label}.dags", by_dag)
    else:
        yield Problem(label, "dags", "should be a mapping of DAG ids to thresholds.")


def _check_sizes(label: str, document: Document) -> Iterator[Problem]:
    known = ", ".join(Size)
    for name in document.keys() - set(Size):
        yield Problem(label, name, f"no such size; known: {known}.")
    yield from _check_each(SizeDefaults)(label, document)


def _check_lists(label: str, document: Document) -> Iterator[Problem]:
    for dag_id, tables in document.items():
        if not isinstance(tables, list):
            yield Problem(label, dag_id, "should be a list of tables.")


def _check_dbt(label: str, document: Document) -> list[Problem]:
    return problems_of_keys(DbtConfig, label, document)


_SHAPES: Mapping[str, Callable[[str, Document], Any]] = {
    "dag_configs": _check_each(DagConfig),
    "connection_configs": _check_connections,
    "table_configs": _check_lists,
    "execution_monitoring_configs": _check_monitoring,
    "chunk_mode_configs": _check_sizes,
    "dbt_configs": _check_dbt,
}


def passwords(label: str, value: object) -> Iterator[Problem]:
    """Yields where a value holds a URI with a password in it; the value is not repeated."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from passwords(f"{label}.{key}", item)
    elif isinstance(value, list):
        for item in value:
            yield from passwords(label, item)
    elif isinstance(value, str) and _PASSWORD_IN_URI.search(value):
        yield Problem(label, "", "holds a password; put it in an Airflow Connection.")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        msg = f'key "{twice}" stands twice'
        raise ValueError(msg)
    return document
