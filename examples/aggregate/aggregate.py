"""Hadoop Streaming's `-reducer aggregate`, as combiner and reducer.

A mapper writes `TYPE:NAME TAB VALUE`; the result is `NAME TAB AGGREGATE`.  Copy this file beside
your job file.
"""

import math
from collections import Counter


def counted(values):
    """Count each value; `VALUE TAB NUMBER` counts as NUMBER values."""
    counts = Counter()
    for value in values:
        text, tab, number = value.rpartition("\t")
        counts[text if tab else value] += int(number) if tab else 1
    return counts


def histogram(values):
    """Of the numbers of each value: how many, least, median, most, average, standard deviation."""
    numbers = sorted(counted(values).values())
    average = sum(numbers) / len(numbers)
    deviation = math.sqrt(math.fsum((each - average) ** 2 for each in numbers) / len(numbers))
    few = (len(numbers), numbers[0], numbers[len(numbers) // 2], numbers[-1])
    return "\t".join(map(str, (*few, average, deviation)))


def least(values):
    return min(map(int, values))


def most(values):
    return max(map(int, values))


def total(values):
    return sum(map(int, values))


TYPES = {
    # name in small letters: (what the values of a part become, what all values become)
    "longvaluesum": (lambda values: [total(values)], total),
    "longvaluemax": (lambda values: [most(values)], most),
    "longvaluemin": (lambda values: [least(values)], least),
    "stringvaluemax": (lambda values: [max(values)], max),
    "stringvaluemin": (lambda values: [min(values)], min),
    # Added once, exactly: the sum does not depend on the parts.
    "doublevaluesum": (list, lambda values: math.fsum(map(float, values))),
    "uniqvaluecount": (lambda values: sorted(set(values)), lambda values: len(set(values))),
    "valuehistogram": (
        lambda values: [f"{text}\t{number}" for text, number in sorted(counted(values).items())],
        histogram,
    ),
}


def parts(key):
    """The two functions of a key's type, and its name."""
    word, colon, name = key.partition(":")
    if not colon or word.lower() not in TYPES:
        raise ValueError(f"{key!r} is not TYPE:NAME, with a type such as LongValueSum")
    return (*TYPES[word.lower()], name)


def combine(key, values):
    for value in parts(key)[0](values):
        yield key, value


def reduce(key, values):
    _, whole, name = parts(key)
    return f"{name}\t{whole(values)}"
