"""Limits, tokens, certificates, admission."""
