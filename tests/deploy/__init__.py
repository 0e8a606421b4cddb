"""The manifests of scripts/deploy."""
