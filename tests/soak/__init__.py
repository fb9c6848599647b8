"""Campaigns that break things for as long as one likes, and count what held."""
