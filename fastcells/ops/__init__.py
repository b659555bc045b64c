"""The compiled ops: what the tracer has to know of them, and typed calls. No logic."""
