"""The temporal layers, where they sit in an image U-Net, and frames to latents and back."""
