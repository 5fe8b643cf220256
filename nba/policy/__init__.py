"""What may be chosen, what it is worth, within which limits, and how it is explored."""
