"""Access to a server: limits, tokens, certificates, admission."""
