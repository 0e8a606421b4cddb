"""Backend that calls another server of the schema."""
