"""Serialized protobuf."""
