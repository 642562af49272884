"""The Ray engine: the only room that imports Ray."""
