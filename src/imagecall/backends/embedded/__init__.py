"""Backend that draws test cards, without a network."""
