"""Times: contenders measured in turn, and what the sections of benchmark compare."""
