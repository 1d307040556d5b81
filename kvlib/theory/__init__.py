"""Sources whose sensitivity is known exactly, bounds, and rates: no model, no file, no chart."""
