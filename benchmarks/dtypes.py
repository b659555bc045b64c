"""What is known of a dtype, by its name: its size, and the error of a right result. No torch."""

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}  # as experiments.max_error counts
