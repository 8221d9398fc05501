"""From noise to latents: noise, schedulers, guidance and the denoising loop."""
