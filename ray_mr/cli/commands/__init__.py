"""The commands of ``ray-mr``: one module for each, named like its command."""
