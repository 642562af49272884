"""The commands of ``ray-mr``: a module for each, named like its command (``try_job.py``: try)."""
