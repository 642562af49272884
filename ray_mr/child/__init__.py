"""The user's program as a child process: languages, framing, and the harnesses."""
