"""What is seen of a server from outside: request ids, logs, metrics and traces.

`observer` is what doors and backends use: it needs nothing installed. Behind it stand `metrics`
(prometheus-client) and `spans` (OpenTelemetry), which `pip install 'imagecall[observe]'` brings.
"""
