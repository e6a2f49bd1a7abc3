"""What many runs say together: how M falls with data, and what M and F say about accuracy."""
