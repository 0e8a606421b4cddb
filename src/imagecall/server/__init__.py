"""A running server: settings, limits, tokens, certificates, admission, workers."""
