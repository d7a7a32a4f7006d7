"""The paper's studies on any corpus with ground truth: what each choice of the method is worth."""
