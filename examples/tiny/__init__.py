"""What the embedded tasks share: a tiny model, and its supervised warm start."""
