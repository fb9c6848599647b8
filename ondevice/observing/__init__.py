"""The guide's observations as experiments: networks, claims, causes, the page."""
