"""A running server."""
