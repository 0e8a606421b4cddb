"""Who may call a server and how much: limits, tokens, certificates, admission."""
