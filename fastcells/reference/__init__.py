"""Every op again in plain torch: oracle of the tests, composite path, documentation."""

from . import attention, recurrent, scan

__all__ = ["attention", "recurrent", "scan"]
