"""Inputs that nobody would write, made from a seed: what the library must answer with a right result or an error of its
own. `python -m benchmarks.fuzz` runs thousands of them, `test_fuzz.py` a few.
"""
