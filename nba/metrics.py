"""Measures of models: how well they rank, how well they are calibrated."""
