"""The Python harness: calls the user's function for each record or group.

It is copied beside the user's script and run there; ray_mr never imports it.  It needs only the
standard library of Python 3.8, and uses ``orjson``, ``isal`` and ``zstandard`` if the interpreter
has them.  docs/reference/child-protocol.md describes the messages.

It is copied as one file, since it shares its folder and its import path with the user's script:
``languages`` joins these parts in this order and leaves out the imports between them.

1. ``common``: limits, exceptions, and the import path.
2. ``messages``: ``Wire`` reads and writes frames; ``Output`` gathers what a function returns.
3. ``decoding``: ``read_chunks`` yields the decoded content of a file.
4. ``records``: ``split_lines`` cuts chunks into lines; ``parse_json`` and others parse them.
5. ``roles``: ``Mapper``, ``Reducer`` and ``Streamer`` answer the frames that ``serve`` reads.
6. ``start``: ``main`` takes the streams away from the user's code (``open_private_streams``), says
   ``hello``, loads the script as ``begin`` says (``load``), and serves frames to their end.

It runs as ``__main__`` in the program, and as ``__mp_main__`` in each process that multiprocessing
starts by ``spawn`` or ``forkserver``: there it only makes the user's script importable.
"""

import os
import sys

HOME = os.path.dirname(os.path.abspath(__file__))  # the script's folder
if __name__ == "__main__":
    # Until `load`: a json.py beside the script must not replace the standard library's.
    sys.path.pop(0)


FLUSH_BYTES = 1 << 20
READ_BYTES = 1 << 18
CHUNK_BYTES = 1 << 18
PROGRESS_S = 0.5
MESSAGE_CHARS = 2000
TRACE_CHARS = 8000
GC_THRESHOLD = 100_000  # a parsed record has thousands of objects, and no cycles
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
MAX_ZSTD_WINDOW_BYTES = 1 << 30  # as of files of `zstd --long=30`
MAX_GZIP_HEAD_BYTES = 1 << 20  # head of a gzip member: extra field, name, comment
HEAD_BYTES = 512  # start of decoded content, by which its format is recognised
LITTLE = sys.byteorder == "little"
VALUE_OVERHEAD_BYTES = 57  # of a str and its place in a list, beside its characters
OWN_FILES = (__file__, "<frozen importlib")


class Corrupt(Exception):
    """A file does not decode to its end."""


class Refused(Exception):
    """A compressed file holds a format that is not read as lines, or expands too far."""


class TooLarge(Exception):
    """The values of one key take more memory than a list may."""


NOT_ITERATED = (dict, bytearray, memoryview)  # iterable, but hardly meant as many results
