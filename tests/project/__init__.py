"""The schema and the README."""
