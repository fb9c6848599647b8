"""The device side: runtimes, session, data and training; no tensorflow."""
