"""Backends, the sources of images; each implements imagecall.generation.backend.Backend."""
