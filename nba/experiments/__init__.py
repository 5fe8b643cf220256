"""Experiments: who decides for whom, and what it changed."""
