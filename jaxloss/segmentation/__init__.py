"""Segmentation losses: the overlap of predicted and true regions, class by class."""
