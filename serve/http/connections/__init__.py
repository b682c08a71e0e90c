"""Connections of clients: bounds on their number, and on what a client may send and how long it may take."""
