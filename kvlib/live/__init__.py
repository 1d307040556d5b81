"""The live bench: any text and model, laws side by side, in a running kernel."""
