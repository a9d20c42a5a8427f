"""Memory held down while an index is written: what Lance reads ahead, what the C library keeps.

Knows nothing of indexes.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Lance reads up to 2 GiB ahead of a scan, or of a merge of files: all of most tables.
_READ_AHEAD_BYTES = 16 << 20
# glibc gives blocks of more than a threshold back to the system once they are freed, but raises it
# to the size of each such block, up to the largest here: then threads keep what they have freed.
_M_MMAP_THRESHOLD = -3
_SMALL_BLOCK, _LARGEST_THRESHOLD = 1 << 20, 32 << 20


def limit_read_ahead() -> None:
    """Before the first scan of Lance, which has no other switch for it; who has set it is heard."""
    os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(_READ_AHEAD_BYTES))


@contextmanager
def freed_blocks_returned() -> Iterator[None]:
    """Within, freed blocks of 1 MB and more go back to the system; does nothing without glibc.

    The merge of files and both search indexes of 100,000 passages took 430 MB beyond the imports,
    170 MB with this and the limit of reading ahead. Computing is a little slower meanwhile.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    set_option = ctypes.CDLL(None).mallopt
    set_option(_M_MMAP_THRESHOLD, _SMALL_BLOCK)
    try:
        yield
    finally:
        set_option(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
