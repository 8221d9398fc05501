"""Makes `tiny_models`, the small real components, importable from every test folder."""
