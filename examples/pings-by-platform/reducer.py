"""Return an operating system and the sum of its numbers."""


def reduce(key, values):
    return f"{key} {sum(map(int, values))}"
