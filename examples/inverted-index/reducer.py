"""Return a line of the index: the word, and its files with the number of lines in each."""

from collections import Counter


def reduce(word, names):
    files = sorted(Counter(names).items())
    return word + "\t" + ", ".join(f"{name} ({lines})" for name, lines in files)
