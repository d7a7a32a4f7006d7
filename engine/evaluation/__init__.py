"""Labels against ground truth, as figures and as pictures."""
