"""Compressed formats: detection, decoding, and refusal of files that are not text."""
