"""Every op again in plain torch: oracle of the tests, composite path, documentation."""

from . import recurrent

__all__ = ["recurrent"]
