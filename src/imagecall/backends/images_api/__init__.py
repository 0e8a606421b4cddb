"""Backend that calls an Images API over HTTP."""
