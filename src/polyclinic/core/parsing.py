"""Parsing by one thread at a time.

numpy reads the head of a file with Python's parser, which in 3.11 sometimes raises SystemError
where two threads parse at once (python/cpython#106905).
"""

from __future__ import annotations

from threading import Lock

PARSING = Lock()
