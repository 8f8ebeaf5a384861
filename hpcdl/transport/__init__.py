"""Moves bytes between ranks, and knows nothing of what they mean."""
