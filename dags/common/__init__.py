"""What the DAG files of this folder share."""
