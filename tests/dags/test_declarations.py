"""The defaults file: everything that is wrong with it is told at once."""

from pathlib import Path

import pytest

from common.declarations import read_defaults
from extract_load import ConfigError

WRONG = """
dag_configs: {a_dag: {tables_in_paralel: 2}}
dag_config: {}
execution_monitoring_configs: []
chunk_mode_configs: {}
dbt_configs: {}
"""


def test_what_is_wrong_with_the_defaults_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "defaults.yml"
    path.write_text(WRONG)
    with pytest.raises(ConfigError) as caught:
        read_defaults({}, path)
    error = caught.value
    assert error.primary == f'"{path}" has 4 problems'
    assert error.hint == "Its keys are described in docs/reference/variables.md."
    assert sorted(map(str, error.problems)) == [
        'connection_configs: needed, a mapping; "{}" where nothing is to be said.',
        "dag_config: no such key; known: dag_configs, connection_configs, "
        "execution_monitoring_configs, chunk_mode_configs, dbt_configs.",
        'dag_configs.a_dag.tables_in_paralel: no such key; did you mean "tables_in_parallel"?',
        'execution_monitoring_configs: needed, a mapping; "{}" where nothing is to be said.',
    ]
