"""The method: from images to heatmaps to masks, for one concept."""
