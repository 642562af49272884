"""The operating system: processes, scratch folders, limits, text that is safe to print."""
