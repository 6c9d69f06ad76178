from types import SimpleNamespace
def effective_monitoring(dag_id): return SimpleNamespace(max_execution_seconds=7200)
def effective_dbt_config(): return SimpleNamespace(full_refresh=False, threads=4)
def effective_settings(dag_id, settings): return settings
