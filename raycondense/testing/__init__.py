"""Checks for parts that can be replaced: whoever writes one of their own runs them on it, with any test runner.

Nothing here is needed to use raycondense, and nothing here imports a test runner.
"""
