"""The demo: two embedded PostgreSQL servers, a sample shop, and a day passing in it."""
