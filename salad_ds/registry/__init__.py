"""Students as MLflow models: what is logged of one (packaging.py), and how one that was logged or registered answers
(flavour.py)."""
