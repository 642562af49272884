"""Yield each word of a line with the name of its file."""

import os
import re

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def mapper(file, line):
    name = os.path.basename(file).removesuffix(".gz")
    for word in sorted(set(WORD.findall(line.lower()))):
        yield word, name
