"""Touches and orders to outcomes of decisions, once their window has closed."""
