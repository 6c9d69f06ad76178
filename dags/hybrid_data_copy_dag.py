"""Every night: tables of the DigitalOcean database are landed in several targets each.

A target that is slow, down or full fails alone: the others have their rows, and a retry works on
the missing one. dbt builds on what lands in the warehouse.
"""

# Airflow opens only files with the words "airflow" and "dag" in them.
from common.copy_dag import copy_dag

dag = copy_dag("hybrid_data_copy_dag", doc_md=__doc__)
