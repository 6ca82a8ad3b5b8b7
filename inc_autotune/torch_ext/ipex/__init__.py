"""The backend `ipex`: models in the form of Intel Extension for PyTorch 2.8, which only this backend imports."""
