"""What policies would have earned, from logged decisions."""
