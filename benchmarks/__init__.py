"""Benchmarks, a folder a topic: recurrent/, attention/; what both share lies here (README.md)."""
