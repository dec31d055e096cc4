"""Searching settings: spaces, plans, records and results, without Ray and Optuna (see `raycondense.cluster.sweep`)."""
