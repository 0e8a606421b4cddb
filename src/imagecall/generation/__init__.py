"""What doors and backends exchange: the Backend protocol, requests, responses and their parts."""
