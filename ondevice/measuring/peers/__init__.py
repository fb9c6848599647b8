"""What takes part in measuring, a module each, run by a worker process.

Each has `prepare(options)`, which gives the function to measure; it raises
`missing.Missing`, or an ImportError, where it cannot take part, with the reason.
"""
