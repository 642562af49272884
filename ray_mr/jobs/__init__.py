"""The job: options, job files, programs."""
