"""A service of one's own: its generator, plain servers, its guide."""
