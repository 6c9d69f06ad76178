"""The environment that connections and dbt sources are read from."""

import os

from common.airflow_lookup import is_in_task
from common.declarations import ROOT
from extract_load import ConfigError

ENV_FILE = ROOT / ".env"


def environment() -> dict[str, str]:
    """Returns the process's environment; in a shell over what `.env` says, as the command line.

    A task has none: between containers other addresses hold than on the machine of `.env`.

    Raises:
        ConfigError: If `.env` cannot be read.
    """
    if is_in_task() or not ENV_FILE.is_file():
        return dict(os.environ)
    from dotenv import dotenv_values

    try:
        read = {key: value for key, value in dotenv_values(ENV_FILE).items() if value is not None}
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f'cannot read "{ENV_FILE}"', f"{exc}.", "Check its permissions and that it is UTF-8."
        ) from exc
    return {**read, **os.environ}
