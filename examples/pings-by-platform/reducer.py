"""Called with each operating system and all its numbers: their sum."""


def reduce(key, values):
    return f"{key} {sum(map(int, values))}"
