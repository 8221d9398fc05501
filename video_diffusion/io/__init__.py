"""Files: reading and writing video, atomic writes, run records."""

from video_diffusion.io.atomic import atomic_path, remove_dead_parts, write_bytes
from video_diffusion.io.run_record import (
    MeasuredValue,
    ModelIdentity,
    RecordError,
    RunRecord,
    frames_sha256,
    library_versions,
    read_record,
    record_beside,
    sidecar_path,
    weights_sha256,
    write_record,
)
from video_diffusion.io.video_formats import CODECS, SUFFIXES, check_clip, choose_encoding, timing_note
from video_diffusion.io.video_reader import (
    Frame,
    FrameSource,
    ReadLimits,
    Video,
    VideoReadError,
    iter_frames,
    open_video,
    read_tags,
    read_video,
)
from video_diffusion.io.video_writer import VideoWriteError, codec_problem, working_codecs, write_video

__all__ = [
    "CODECS",
    "SUFFIXES",
    "Frame",
    "FrameSource",
    "MeasuredValue",
    "ModelIdentity",
    "ReadLimits",
    "RecordError",
    "RunRecord",
    "Video",
    "VideoReadError",
    "VideoWriteError",
    "atomic_path",
    "check_clip",
    "choose_encoding",
    "codec_problem",
    "frames_sha256",
    "iter_frames",
    "library_versions",
    "open_video",
    "read_record",
    "read_tags",
    "read_video",
    "record_beside",
    "remove_dead_parts",
    "sidecar_path",
    "timing_note",
    "weights_sha256",
    "working_codecs",
    "write_bytes",
    "write_record",
    "write_video",
]
