"""What a request passes before its route: its id, its length, its key, its rate."""
