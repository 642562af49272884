"""Return a line for each customer with orders, and for orders whose customer is not known."""


def reduce(number, values):
    name, amounts = "unknown", []
    for value in values:
        kind, rest = value.split(" ", 1)
        if kind == "name":
            name = rest
        else:
            amounts.append(int(rest.split()[1]))
    if amounts:
        return f"{number}\t{name}\t{len(amounts)} orders\t{sum(amounts)}"
    return None
