"""The plan: which objects are read, and how they are cut into splits."""
