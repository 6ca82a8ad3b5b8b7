"""The search: what is tried next, what each trial was, and how one trial is built and scored.

Imports analysis and everything below it; study stands below strategy, and strategy below the rest.
"""
