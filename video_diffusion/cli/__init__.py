"""Commands of the `video-diffusion` program, one file per verb."""
