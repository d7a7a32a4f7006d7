"""Synthesis: images by m′, from noised ones or noise, with masks, and pure backgrounds (the paper's D′_s)."""
