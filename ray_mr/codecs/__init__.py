"""Compressed formats: detection, decoding, refusal."""
