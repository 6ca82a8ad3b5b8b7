"""The commands, one a file; each is a function whose parameters are its options."""
