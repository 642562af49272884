"""Folding rows of equal keys: before the shuffle, and in built-in reducers."""
