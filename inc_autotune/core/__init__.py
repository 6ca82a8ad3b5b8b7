"""What every framework shares: arguments, maths, search and result. Imports no framework and no extension."""
