"""Drift, data freshness and model health."""
