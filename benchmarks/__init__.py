"""Benchmarks; each script runs alone: `python benchmarks/torch/speed.py`.

This file makes `from benchmarks.torch import common` mean these files. The folders below have none of their own: as a
package, `torch` would hide PyTorch from whatever has this folder on its path.
"""
