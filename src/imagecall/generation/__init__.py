"""Interface between doors and backends: the Backend protocol, requests, responses, parts."""
