"""Lab 10: what a sweep says, and what it does not."""
