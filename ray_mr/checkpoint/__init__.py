"""What ``--resume`` keeps beside the output, and how it is matched with a new run."""
