"""Train a small latent diffusion model from scratch on captioned images alone."""
