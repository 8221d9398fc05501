"""How well frames hold together: pure functions of frames."""
