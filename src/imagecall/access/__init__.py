"""Access control of a server: limits, tokens, certificates, admission."""
