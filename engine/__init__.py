"""maskmine: pixel masks of a concept, mined out of a text-to-image diffusion model."""
