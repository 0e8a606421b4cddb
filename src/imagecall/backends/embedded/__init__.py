"""Backend that draws test cards, without a network."""

from typing import Final

MODEL: Final = "imagecall-test-card"
"""Model that the answers name if a request names none."""
