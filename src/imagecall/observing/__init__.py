"""Observation of a server from outside: request ids, logs, metrics and traces.

`observer` is the part that doors and backends use, and needs no further package. `metrics` needs
prometheus-client and `traces` OpenTelemetry: `pip install 'imagecall[observe]'` installs both.
"""
