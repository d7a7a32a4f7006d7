"""The labelling on a Ray cluster: the only folder of the labelling that imports ray."""
