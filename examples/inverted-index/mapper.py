"""Yields each word of a line with the name of the file that it stands in."""

import os
import re

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def mapper(file, line):
    name = os.path.basename(file).removesuffix(".gz")
    for word in sorted(set(WORD.findall(line.lower()))):
        yield word, name
