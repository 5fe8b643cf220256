"""History to features: SQL over what was known at a moment, point in time by construction."""
