"""One page each: read small tables, show them."""
