"""Passes over the fp32 graph, before anything is quantized: one a file, each from a graph to a graph.

Imports what stands below operators.
"""
