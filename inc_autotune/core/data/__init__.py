"""What a data loader may be, how its items are read, and which samples are held out.

Imports arguments, for the words of error messages.
"""
