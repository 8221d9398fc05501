"""Many clips from one file: checked whole, sharded, resumable, every failure a row of its own."""

from video_diffusion.jobs.job import Job, JobSummary, ModelFacts, Shard, check_jobs, model_facts, read_jobs
from video_diffusion.jobs.results import Results
from video_diffusion.jobs.runner import Outcome, Pipelines, check_models, run_jobs

__all__ = [
    "Job",
    "JobSummary",
    "ModelFacts",
    "Outcome",
    "Pipelines",
    "Results",
    "Shard",
    "check_jobs",
    "check_models",
    "model_facts",
    "read_jobs",
    "run_jobs",
]
