"""Files: reading and writing video, atomic writes, run records."""
