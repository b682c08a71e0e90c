"""C functions for the CPU, and the classes that call them."""
