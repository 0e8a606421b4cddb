"""Pictures drawn from a prompt, with no model: see imagecall.test_card.card."""
