"""One batch of decisions from scores to delivered files."""
