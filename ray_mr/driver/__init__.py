"""What decides: which attempt counts, what runs again, when a result is published."""
