"""Where images come from: each backend implements imagecall.generation.backend.Backend."""
