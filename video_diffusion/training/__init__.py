"""Losses, training loops and checkpoints."""
