"""Suite of conformance: checks a server of the schema by ordinary requests."""
