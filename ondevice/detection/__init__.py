"""Anchors, targets, decoding, metrics and drawing, on numpy alone."""
