"""Yield the customer's number, with a name or an order."""


def mapper(file, line):
    if "customers" in file:
        number, name = line.rstrip("\n").split(",")
        yield number, "name " + name
    else:
        day, number, amount = line.rstrip("\n").split(",")
        yield number, f"order {day} {amount}"
