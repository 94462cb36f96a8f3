"""Tables of a study: comparison, cross table, evaluations, pairs, source; costs of a bench."""
