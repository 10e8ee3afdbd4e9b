"""What generated code needs around it: the loader, the thread pool and the entry from Python."""
