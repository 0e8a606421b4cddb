"""Doors: the listeners that translate between a protocol and the backend."""
