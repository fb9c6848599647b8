"""Three routes from a frozen detector to one's own classes, measured side by side."""
