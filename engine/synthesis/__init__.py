"""Synthesis: images that m′ makes up, with masks, cut-outs, backgrounds, and pure backgrounds (the paper's D′_s)."""
