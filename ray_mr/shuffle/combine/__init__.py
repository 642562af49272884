"""Folding rows of equal keys: on the map side and in built-in reducers."""
