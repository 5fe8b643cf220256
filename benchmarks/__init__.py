"""What is measured, against which peer, and the record of it."""
