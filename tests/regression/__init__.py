"""PostgreSQL's own regression database as a source: what its test suite leaves behind."""
