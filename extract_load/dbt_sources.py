"""The sources of a dbt project as settings: adding a table is one YAML entry.

The project is read as YAML or from dbt's manifest, without dbt; a test holds both equal.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.nativetypes import NativeEnvironment

from extract_load.config import Settings
from extract_load.errors import ConfigError
from extract_load.identifiers import quoted
from extract_load.settings_file import (
    RUN_KEYS,
    TABLE_KEYS,
    Document,
    read_yaml,
    settings_from_document,
)

_DECLARES = "extract_load"
_DEFAULTS = "extract_load_defaults"
_ALIKE = 0.9
"""How alike a key of a `meta` is that is taken for a slip (difflib's ratio): `extract_laod`."""


def load_dbt_project(project_dir: Path, environ: Mapping[str, str]) -> Settings:
    """Returns the settings that the sources of a dbt project declare.

    Args:
        project_dir: The folder with `dbt_project.yml` in it.
        environ: For `env_var()`, and the connections that no source names.

    Raises:
        ConfigError: If there is no project, or the declarations hold any problem.
    """
    document = dbt_project_document(project_dir, environ)
    return settings_from_document(document, f'dbt project "{project_dir}"', environ)


def dbt_project_document(project_dir: Path, environ: Mapping[str, str]) -> Document:
    """Returns what the sources of a dbt project declare as a settings document, not yet checked.

    Args:
        project_dir: The folder with `dbt_project.yml` in it.
        environ: For `env_var()`.

    Raises:
        ConfigError: If there is no project, or it cannot be read.
    """
    project_file = project_dir / "dbt_project.yml"
    if not project_file.is_file():
        raise ConfigError(
            f'no dbt project in "{project_dir}"',
            f'There is no file "{project_file}".',
            "Name the project with --project-dir, or a settings file with --config.",
        )
    project = read_yaml(project_file)
    render = _renderer(project, environ)
    declared = [
        _declaration(
            schema=render(source.get("schema", source["name"])),
            table=table,
            metas=[render(_meta(source)), render(_meta(table))],
        )
        for source in _dbt_sources(project_dir, project)
        for table in source.get("tables") or ()
        if _declares(table["name"], _meta(source), _meta(table))
        and render(_is_enabled(source, table))
    ]
    return _document(declared)


def settings_from_manifest(
    manifest: Mapping[str, Any], environ: Mapping[str, str], unique_ids: Iterable[str] | None = None
) -> Settings:
    """Returns the settings that the sources in dbt's `manifest.json` declare.

    Args:
        manifest: The parsed file.
        environ: Names the connections that no source names.
        unique_ids: Only these sources, by dbt's unique id; None means all.

    Raises:
        ConfigError: If the declarations hold any problem.
    """
    sources = manifest["sources"]
    nodes = [sources[unique_id] for unique_id in (sources if unique_ids is None else unique_ids)]
    declared = [
        _declaration(
            schema=node["schema"],
            table={"name": node["name"], "identifier": node["identifier"]},
            metas=[node["config"]["meta"]],
        )
        for node in nodes
        if _declares(node["name"], node["config"].get("meta", {}))
    ]
    return settings_from_document(_document(declared), "dbt manifest", environ)


def _dbt_sources(project_dir: Path, project: Document) -> Iterator[Document]:
    for folder in project.get("model-paths", ["models"]):
        for path in sorted((project_dir / folder).rglob("*.y*ml")):
            document = read_yaml(path)
            yield from (document or {}).get("sources") or ()


def _meta(node: Document) -> Document:
    """A source's or table's meta; dbt takes it under `config` and, still, beside it."""
    return {**(node.get("meta") or {}), **((node.get("config") or {}).get("meta") or {})}


def _declares(table: str, *metas: Document) -> bool:
    """Whether the last meta, that of a table, declares what is landed.

    Raises:
        ConfigError: If a key is all but one of ours: the table would be left out in silence.
    """
    for key in (str(key) for meta in metas for key in meta):
        meant = _meant(key)
        if meant is not None:
            raise ConfigError(
                f'the dbt source table "{table}" has "{key}" in its meta, or its source has',
                f'No such key is known here; did you mean "{meant}"?',
                "Mend it in the YAML that declares the source.",
            )
    return _DECLARES in metas[-1]


def _meant(key: str) -> str | None:
    """The key of ours that another is a slip of; what goes on after ours is somebody else's."""
    if key in {_DECLARES, _DEFAULTS}:
        return None
    ours = (_DEFAULTS,) if key.startswith(_DECLARES) else (_DECLARES, _DEFAULTS)
    near = difflib.get_close_matches(key.lower(), ours, n=1, cutoff=_ALIKE)
    return near[0] if near else None


def _is_enabled(source: Document, table: Document) -> Any:
    inherited = (source.get("config") or {}).get("enabled", True)
    return (table.get("config") or {}).get("enabled", inherited)


def _declaration(
    *, schema: str, table: Document, metas: list[Document]
) -> tuple[Document, Document]:
    """The defaults and the keys of one dbt source table, its names filled in."""
    meta: Document = {}
    for part in metas:
        meta |= part
    names = {
        "source": f"public.{quoted(table['name'])}",
        "target": f"{quoted(schema)}.{quoted(table.get('identifier') or table['name'])}",
    }
    own = meta[_DECLARES]
    defaults = meta.get(_DEFAULTS) or {}
    if not isinstance(own, dict):
        return defaults, {**names, _DECLARES: own}
    if "targets" in own:
        del names["target"]
    return defaults, {**names, **own}


def _document(declared: list[tuple[Document, Document]]) -> Document:
    """Defaults and tables of all dbt sources as one settings document."""
    document: Document = {"tables": []}
    for defaults, own in declared:
        run_only = {key: value for key, value in defaults.items() if key in RUN_KEYS - TABLE_KEYS}
        document |= run_only
        inherited = {key: value for key, value in defaults.items() if key not in run_only}
        document["tables"].append({**inherited, **own})
    return document


def _renderer(project: Document, environ: Mapping[str, str]) -> Callable[[Any], Any]:
    """A function that renders `env_var()` and `var()` in every text of a value."""
    variables = dict(project.get("vars") or {})
    variables |= variables.get(str(project.get("name")), {}) or {}
    jinja = NativeEnvironment(undefined=StrictUndefined)

    def env_var(name: str, default: str | None = None) -> str:
        value = environ.get(name, default)
        if value is None:
            raise ConfigError(
                f'environment variable "{name}" is not set',
                "A dbt source asks for it with env_var().",
                "Set it, or name a file that does with --env-file.",
            )
        return value

    def var(name: str, default: Any = None) -> Any:
        value = variables.get(name, default)
        if value is None:
            raise ConfigError(
                f'dbt variable "{name}" is not set',
                "A dbt source asks for it with var().",
                'Add it under "vars" in dbt_project.yml.',
            )
        return value

    def render(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: render(item) for key, item in value.items()}
        if isinstance(value, list):
            return [render(item) for item in value]
        if not isinstance(value, str) or "{{" not in value:
            return value
        try:
            return jinja.from_string(value).render(env_var=env_var, var=var)
        except TemplateError as exc:
            raise ConfigError(
                f"cannot render {value!r}", str(exc), "Only env_var() and var() are known here."
            ) from exc

    return render
