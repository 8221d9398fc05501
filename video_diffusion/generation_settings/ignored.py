"""Settings that change nothing because another one is not set, each with a line that says so."""

from collections.abc import Iterable, Iterator

from video_diffusion.generation_settings.settings import GenerationSettings

USED_WITH = {  # setting -> those that are ignored without it
    "init_image": ("image_hold",),
    "ip_adapter": ("ip_scale",),
    "controlnet": ("control_video", "controlnet_scale", "controlnet_steps"),
    "sparsectrl": ("sparse_images", "sparsectrl_scale"),
    "freeinit": ("freeinit_filter", "freeinit_spatial_cutoff", "freeinit_temporal_cutoff"),
}


def ignored_settings(settings: GenerationSettings) -> Iterator[str]:
    """Say of each setting that is asked for and ignored what it needs."""
    if settings.init_video is None and settings.init_image is None:
        yield from _ignored(settings, ("strength", "enforce_steps"), "init_video or init_image")
    for needs, names in USED_WITH.items():
        if not getattr(settings, needs):
            yield from _ignored(settings, names, needs)
    if settings.freenoise:
        if settings.loop or settings.context_schedule != "uniform":
            yield "loop and context_schedule are ignored by freenoise, whose windows never move"
    elif settings.context_length is None:
        yield from _ignored(settings, ("context_overlap", "context_stride", "context_fuse"), "context_length")
        if settings.context_schedule != "uniform_looped":  # which turns a clip of one window
            yield from _ignored(settings, ("context_schedule",), "context_length")


def _ignored(settings: GenerationSettings, names: Iterable[str], needs: str) -> Iterator[str]:
    for name in names:
        if getattr(settings, name) != GenerationSettings.model_fields[name].default:
            yield f"{name} is ignored without {needs}; set that too, or leave it out"
