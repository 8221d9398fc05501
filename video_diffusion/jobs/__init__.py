"""Many clips from one file: checked whole, sharded, resumable, every failure a row of its own."""

from video_diffusion.jobs.job import Job, JobSummary, check_jobs, read_jobs
from video_diffusion.jobs.model_facts import ModelFacts, model_facts
from video_diffusion.jobs.pipelines import Pipelines
from video_diffusion.jobs.results import Results
from video_diffusion.jobs.runner import Outcome, run_jobs
from video_diffusion.jobs.shard import Shard

__all__ = [
    "Job",
    "JobSummary",
    "ModelFacts",
    "Outcome",
    "Pipelines",
    "Results",
    "Shard",
    "check_jobs",
    "model_facts",
    "read_jobs",
    "run_jobs",
]
