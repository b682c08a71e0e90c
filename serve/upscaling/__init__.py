"""Pictures enlarged by a super-resolution model, in a process of its own."""
