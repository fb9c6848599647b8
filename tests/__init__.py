"""Tests: one file a module, and the whole chain."""
