"""Mutation testing: what no test notices when it is changed, no test holds."""
