"""The command line: `extract-load plan | run | verify | doctor | ...`. Alone prints and exits."""

import gc
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extract_load import cli_options
from extract_load.errors import ConfigError, ExtractLoadError

if TYPE_CHECKING:
    from types import FrameType

    from extract_load.config import Settings
    from extract_load.connection_parameters import ConnectionParameters

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

NOT_BUILT_COMMANDS = frozenset({"discover", "report"})
"""Commands of a later version."""


class Terminated(BaseException):
    """SIGTERM, raised in the main thread."""


class OutputLost(Exception):
    """Standard output does not take what is said: a full disk, or a reader that has gone."""


_LOST = 'What was done stands: "extract-load status" shows it, once there is room or a reader.'


def main() -> None:
    """Runs the command line and exits with its status."""
    gc.disable()  # a start makes nothing but what stays; looking for garbage takes it 0.03 s
    signal.signal(signal.SIGTERM, _terminate)
    # Pydantic would look for plugins in everything that is installed beside it.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        status = cli.main(standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        status = exc.exit_code
    except ConfigError as error:
        _print_error(error, is_json=False)
        status = error.exit_code
    except OutputLost as lost:
        print(f"error: the output was not written\ndetail: {lost}.\nhint: {_LOST}", file=sys.stderr)
        status = 1
    except (click.Abort, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr)
        status = EXIT_INTERRUPTED
    except Terminated:
        print("error: terminated", file=sys.stderr)
        status = EXIT_TERMINATED
    _leave(int(status or 0))


def _leave(status: int) -> None:
    """Ends the process without tidying up its memory, as mypy does: 0.05 s of each run.

    Worker threads of an interrupted run may sit in a call that ends only with its server, and a
    tidy end would wait for them.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError):  # what a command says is flushed by now
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it was closed
            stream.flush()
    os._exit(status)


def _terminate(_signal: int, _frame: "FrameType | None") -> None:
    raise Terminated


class _Command(click.Command):
    """A command whose errors are printed in our form."""

    def invoke(self, ctx: click.Context) -> int:
        """Returns the exit status."""
        is_json = ctx.params["output"] == "json"
        _start_logging(debug=ctx.params["debug"], quiet=not is_json and sys.stderr.isatty())
        try:
            return int(super().invoke(ctx) or 0)
        except ExtractLoadError as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            _print_error(error, is_json=is_json)
            return error.exit_code


class _Group(click.Group):
    """The commands; one of a later version is refused as such."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command that the arguments name."""
        if args and args[0] in NOT_BUILT_COMMANDS:
            raise ConfigError(
                f'"{args[0]}" is not built yet',
                f"This version has {', '.join(sorted(self.commands))}.",
                'See "extract-load --help".',
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="extract-load")
def cli() -> None:
    """Lands tables of a PostgreSQL database in a PostgreSQL warehouse.

    What is published of a table is exactly one snapshot of it. Connections are found by id:
    AIRFLOW_CONN_<ID> in the environment or in .env.
    """


@cli.command(cls=_Command)
@cli_options.common
@click.option("--full-refresh", is_flag=True, help="Read whole tables; nothing is dropped.")
@cli_options.since
@click.option("--allow-deletes", is_flag=True, help="Switch the delete guards off for this run.")
@cli_options.allow_rewrite
@click.option("--workers", type=click.IntRange(1, 32), help="Chunks at a time, for every table.")
@cli_options.wait
def run(**options: Any) -> int:
    """Extracts, loads and publishes tables, then reports.

    Exit status: 0 all done, 1 a table failed, 2 settings or arguments wrong.
    """
    from extract_load import runner
    from extract_load.landing import LandingOptions
    from extract_load.progress import progress_bars
    from extract_load.selection import require_cursor, select_tables

    settings, environ = _load(options)
    if options["since"] is not None:
        require_cursor(select_tables(settings, options["select"], options["target"]))
    with progress_bars(enabled=options["output"] == "text") as progress:
        report = runner.run(
            settings,
            environ,
            runner.RunOptions(
                select=options["select"],
                targets=options["target"],
                landing=LandingOptions(
                    full_refresh=options["full_refresh"],
                    since=options["since"],
                    allow_deletes=options["allow_deletes"],
                    allow_rewrite=options["allow_rewrite"],
                    wait_seconds=options["wait"],
                ),
                workers=options["workers"],
                progress=progress,
            ),
        )
    _print(options, report.as_dict(), report.as_text)
    return 1 if report.failed else 0


@cli.command(cls=_Command)
@cli_options.common
@click.option("--full-refresh", is_flag=True, help="Plan as if run had it.")
@cli_options.since
@cli_options.allow_rewrite
def plan(**options: Any) -> int:
    """Shows what a run would do. Creates nothing, lands no row."""
    from extract_load import runner
    from extract_load.dbt_models import read_models
    from extract_load.landing import LandingOptions
    from extract_load.plan_report import plan_as_dict, plans_as_text
    from extract_load.selection import require_cursor, resolve_all, select_tables

    settings, environ = _load(options)
    tables = select_tables(settings, options["select"], options["target"])
    if options["since"] is not None:
        require_cursor(tables)
    connections = resolve_all(tables, environ, None)
    landing = LandingOptions(
        full_refresh=options["full_refresh"],
        since=options["since"],
        allow_rewrite=options["allow_rewrite"],
    )
    planned = runner.Run(
        settings, tables, connections, runner.RunOptions(landing=landing)
    ).plan_all()
    models = {} if options["config"] else read_models(options["project_dir"])
    _print(
        options,
        {"tables": [plan_as_dict(table, models) for table in planned]},
        lambda: plans_as_text(planned, models),
    )
    return 1 if any(table.error for table in planned) else 0


@cli.command(cls=_Command)
@cli_options.common
@click.option("--settle", is_flag=True, help="Run the tables, then compare in that snapshot.")
@cli_options.wait
def verify(**options: Any) -> int:
    """Proves that raw tables hold what their sources hold; names the keys that differ.

    Reads only, unless --settle runs the tables first. Exit status: 1 a table differs or could
    not be compared, 2 settings or arguments wrong.
    """
    from extract_load.selection import resolve_all, select_tables
    from extract_load.verification import Verification

    settings, environ = _load(options)
    tables = select_tables(settings, options["select"], options["target"])
    verification = Verification(settings, tables, resolve_all(tables, environ, None))
    report = verification.settle(options["wait"]) if options["settle"] else verification.look()
    _print(options, report.as_dict(), report.as_text)
    return 1 if report.is_bad else 0


@cli.command(cls=_Command)
@cli_options.common
def status(**options: Any) -> int:
    """Shows last runs, freshness, watermarks, open chunks and leases.

    Exit status: 1 a target could not be asked, 2 settings or arguments wrong.
    """
    from extract_load.plan_report import statuses_as_text
    from extract_load.status import read_statuses

    declared, tables, connections = _targets(options)
    found = read_statuses(tables, declared, connections)
    _print(
        options,
        {"tables": [table.as_dict() for table in found]},
        lambda: statuses_as_text(found),
    )
    return 1 if any(table.unasked for table in found) else 0


@cli.command(cls=_Command)
@cli_options.common
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(**options: Any) -> int:
    """Forgets watermarks and checkpoints: the next run is a baseline. Touches no raw table."""
    from extract_load.reset import forget_all, forgotten_as_text

    _, tables, connections = _targets(options)
    if not options["yes"] and sys.stdin.isatty():
        names = ", ".join(table.target.written for table in tables)
        click.confirm(f"Forget the watermarks of {names}?", abort=True, err=True)
    forgotten = forget_all(tables, connections)
    _print(options, {"tables": forgotten}, lambda: forgotten_as_text(forgotten))
    return 0


@cli.command(cls=_Command)
@cli_options.common
@click.option("--grants", is_flag=True, help="Print the SQL that grants what a run needs.")
def doctor(**options: Any) -> int:
    """Tells what would go wrong in a run, and what mends it. Changes nothing, lands nothing.

    Exit status: 0 no error was found, 1 one was, 2 settings or arguments wrong.
    """
    from extract_load import doctor_report
    from extract_load.doctor import examine
    from extract_load.findings import has_error
    from extract_load.grants import grants_for
    from extract_load.selection import resolve_all, select_tables

    settings, environ = _load(options)
    tables = select_tables(settings, options["select"], options["target"])
    connections = resolve_all(tables, environ, None)
    if options["grants"]:
        grants = grants_for(tables, connections)
        as_dict = doctor_report.grants_as_dict(grants)
        _print(options, as_dict, lambda: doctor_report.grants_as_text(grants))
        return 0
    found = examine(settings, tables, connections)
    as_dict = doctor_report.examination_as_dict(found)
    _print(options, as_dict, lambda: doctor_report.examination_as_text(found))
    return 1 if has_error(found.findings) else 0


# ---------------------------------------------------------------- shared by the commands


def _load(options: Mapping[str, Any]) -> "tuple[Settings, dict[str, str]]":
    environ = _environment(options["env_file"])
    if options["config"]:
        from extract_load.settings_file import load_settings_file

        settings = load_settings_file(options["config"], environ)
    else:
        from extract_load.dbt_sources import load_dbt_project

        settings = load_dbt_project(options["project_dir"], environ)
    gc.freeze()
    gc.enable()
    return settings, environ


def _targets(options: Mapping[str, Any]) -> Any:
    """All tables, the selected ones, and the connections of their targets."""
    from extract_load.connection_parameters import resolve_connection
    from extract_load.selection import select_tables

    settings, environ = _load(options)
    tables = select_tables(settings, options["select"], options["target"])
    connections: dict[str, ConnectionParameters] = {
        conn_id: resolve_connection(conn_id, environ)
        for conn_id in dict.fromkeys(table.target_connection for table in tables)
    }
    return settings.tables, tables, connections


def _environment(env_file: Path | None) -> dict[str, str]:
    """The process's environment over what the env file says."""
    path = env_file or Path(".env")
    if not path.is_file():
        if env_file:
            raise ConfigError(
                f'cannot read "{env_file}"', "There is no such file.", "Mend --env-file."
            )
        return dict(os.environ)
    from dotenv import dotenv_values

    try:
        read = {key: value for key, value in dotenv_values(path).items() if value is not None}
    except OSError as exc:
        raise ConfigError(f'cannot read "{path}"', f"{exc.strerror}.", "Check it.") from exc
    return {**read, **os.environ}


def _start_logging(*, debug: bool, quiet: bool) -> None:
    from extract_load import log

    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    log.to_stderr(level)


def _print(options: Mapping[str, Any], as_json: dict[str, Any], as_text: Callable[[], str]) -> None:
    if options["output"] == "json":
        _say(json.dumps(as_json, ensure_ascii=False, default=str))
    else:
        _say(as_text().rstrip("\n"))


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as exc:
        raise OutputLost(exc.strerror) from exc


def _print_error(error: ExtractLoadError, *, is_json: bool) -> None:
    if not is_json:
        print(error, file=sys.stderr)
        return
    shown: dict[str, Any] = {"status": "failed", "error": error.as_dict()}
    if isinstance(error, ConfigError):
        shown["problems"] = [vars(problem) for problem in error.problems]
    _say(json.dumps(shown, ensure_ascii=False))
