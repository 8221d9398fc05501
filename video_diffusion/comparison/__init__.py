"""Honest comparison of settings: same prompts and noise under each, paired statistics, clips side by side."""
