"""Penalised linear models, for whole paths of C and all folds at once, to a bound on how far they are from optimal."""
