"""Vendor's file -> spec -> Keras model -> ported weights -> parity."""
