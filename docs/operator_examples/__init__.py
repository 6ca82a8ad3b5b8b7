"""Small models, one for each kind of operator that holds weights or multiplies, by framework."""
