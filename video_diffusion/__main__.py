"""`python -m video_diffusion` is the same as `video-diffusion`."""

from video_diffusion.cli.main import main

if __name__ == "__main__":
    main()
