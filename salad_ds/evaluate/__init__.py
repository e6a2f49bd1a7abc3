"""Multiple choice in text and in speech: tasks, models, the scorer, its results and what they allow to be said."""
