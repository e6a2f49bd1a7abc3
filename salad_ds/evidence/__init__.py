"""Evidence: does SALAD do at a scale of minutes what the paper says? Grids of small runs, and the page they make."""
