"""How the embedded model is made: autoencoder, training, evaluation. Run by `python scripts/embedded`."""
