"""What runs on a worker: a map attempt is a generator, a reducer is a plain object."""
