"""Writing the quantized graph that a plan describes; one operator type a file.

Imports calibration and everything below it.
"""
