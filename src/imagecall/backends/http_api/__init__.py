"""Client of an upstream HTTP API, which the backends over HTTP share."""
