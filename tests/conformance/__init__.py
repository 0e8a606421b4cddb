"""The suite of conformance, and a server that makes its mistakes."""
