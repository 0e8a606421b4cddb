"""A service of your own: its generator, plain servers, its guide."""
