"""Serialized protobuf: splicing of large values, the cost of a message, chunks."""
