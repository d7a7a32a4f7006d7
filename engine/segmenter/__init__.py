"""The segmenter: a plain U-Net trained on mined masks, which then needs no diffusion model."""
