"""Procedural captioned clips with known truth, and the reader that tells the truth back from frames."""
