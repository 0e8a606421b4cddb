"""The backend that draws test cards, without a network."""
