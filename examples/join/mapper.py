"""Yields the customer's number, and name or order."""


def mapper(file, line):
    if "customers" in file:
        number, name = line.rstrip("\n").split(",")
        yield number, "name " + name
    else:
        day, number, amount = line.rstrip("\n").split(",")
        yield number, f"order {day} {amount}"
