"""Train a small latent diffusion model from scratch on captioned images: autoencoder, tokenizer, text encoder and U-Net."""
