"""The doors, with real clients."""
