"""Folders of this checkout."""

from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
"""The checkout."""
DOCS = TOP / "docs"
SUPPORT = Path(__file__).resolve().parent
