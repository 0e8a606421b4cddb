"""Pictures drawn from a prompt, with no model: see imagecall.backends.embedded.test_card.card."""
