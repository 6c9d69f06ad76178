"""Lands tables of a PostgreSQL application database in a PostgreSQL warehouse."""
