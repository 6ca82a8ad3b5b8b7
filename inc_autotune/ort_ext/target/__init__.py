"""What graphs are written for: versions, kernels, providers, and the switches that the user sets.

Imports graph.
"""
