"""Serialized protobuf: large values spliced in and out, the cost of a message, chunks."""
