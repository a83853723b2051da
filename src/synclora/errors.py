"""The one exception a person should ever see."""

from __future__ import annotations


class SyncloraError(Exception):
    """Bad input or a bad environment, told in one paragraph.

    The message names the file or setting, the value found, the value needed and the way out. The command line prints it
    without a traceback and exits with code 2; everything else (a bug) keeps its traceback.
    """
