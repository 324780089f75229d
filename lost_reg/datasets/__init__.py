"""Datasets with ground truth, and how they are downloaded."""
