"""What this machine and this torch offer: instruction sets, engines, kernels that are safe to use.

Imports core only.
"""
