"""The latent diffusion model: loading, prompts, noise, attention read-out, sampling, and training one from scratch."""
