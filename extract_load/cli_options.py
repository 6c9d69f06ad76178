"""Options of the command line that several commands take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options every command takes."""
    for option in reversed(
        [
            click.option("--config", type=click.Path(path_type=Path), help="A settings file."),
            click.option(
                "--project-dir",
                type=click.Path(path_type=Path),
                default=Path("dbt_project"),
                show_default=True,
                help="The dbt project whose sources are the settings.",
            ),
            click.option(
                "--select",
                multiple=True,
                metavar="NAME",
                help="A source or target name, or a glob; repeatable.",
            ),
            click.option(
                "--target", multiple=True, metavar="CONN_ID", help="A target; repeatable."
            ),
            click.option(
                "--output",
                type=click.Choice(["text", "json"]),
                default="text",
                show_default=True,
                help="JSON is one object on stdout, and nothing else.",
            ),
            click.option(
                "--env-file",
                type=click.Path(path_type=Path),
                help="Variables to add to the environment. [default: .env where there is one]",
            ),
            click.option("--debug", is_flag=True, help="Log more, and show tracebacks."),
        ]
    ):
        command = option(command)
    return command


def since(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--since`."""
    return click.option(
        "--since",
        metavar="VALUE",
        help="Lower the low bound of incremental_sync to this cursor value, for this run.",
    )(command)


def allow_rewrite(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--allow-rewrite`."""
    return click.option(
        "--allow-rewrite",
        is_flag=True,
        help="Alter raw tables also where their readers wait for it: new types, keys, NOT NULL.",
    )(command)


def wait(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--wait`."""
    return click.option(
        "--wait",
        type=click.FloatRange(min=0),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="For a table that another run writes.",
    )(command)
