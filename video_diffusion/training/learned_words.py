"""Words that a model of a small world learns from the captions it is trained on."""

from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.text import unknown_words
from video_diffusion.training.data import read_manifest
from video_diffusion.training.settings import TrainingSettings


def record_words(pipeline: TextToVideoPipeline, settings: TrainingSettings) -> None:
    """Write into an adapter's configuration the words its model knew and those it is trained on.

    `generate` then no longer calls them unknown. Models of no stated vocabulary are left as they are.

    Raises:
        ManifestError: A folder without a manifest, or a damaged one.
    """
    known = pipeline.vocabulary
    if not known:
        return
    captions = (entry.caption for source in settings.data for entry in read_manifest(source.path))
    learned = {word for caption in captions for word in unknown_words(caption, known)}
    pipeline.parts.motion_adapter.register_to_config(vocabulary=[*known, *sorted(learned)])
