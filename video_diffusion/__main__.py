"""`python -m video_diffusion` is the same as `video-diffusion`."""

from video_diffusion.cli.main import main

if __name__ == "__main__":
    try:
        main()
    finally:
        # With -m, an interrupt that struck inside an exec() of an import overrides our exit code: Python
        # remembers it and dies by the signal. Its memory is cleared by the next exec().
        exec("")
