"""Passes over the fp32 graph, before anything is quantized: one a file, each a function from `Graph` to `Graph`.

`passes` has their order. Imports what stands below operators.
"""
