"""What labelling costs on the device at hand, told as ratios within one run."""
