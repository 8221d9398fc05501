"""Words that a model of a small world learns from the captions it is trained on."""

from collections.abc import Iterable

from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.text import unknown_words


def record_words(pipeline: TextToVideoPipeline, captions: Iterable[str]) -> None:
    """Write into an adapter's configuration the words its model knew and those of the captions.

    `generate` then no longer calls them unknown. Models of no stated vocabulary are left as they are.
    """
    known = pipeline.vocabulary
    if not known:
        return
    learned = {word for caption in captions for word in unknown_words(caption, known)}
    pipeline.parts.motion_adapter.register_to_config(vocabulary=[*known, *sorted(learned)])
