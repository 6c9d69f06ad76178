"""Every night: the tables of the DigitalOcean database are landed, then dbt builds on them.

Each model waits for just the tables it reads. A table that fails keeps its models, snapshots and
tests from running, and nothing else. Tables are declared in the dbt project's sources, models are
its models: this file does not change when one is added.
"""

# Airflow opens only files with the words "airflow" and "dag" in them.
from common.copy_dag import copy_dag

dag = copy_dag("digitalocean_data_copy_dag", doc_md=__doc__)
