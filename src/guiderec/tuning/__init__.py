"""The search for good options, by the validation part alone: spaces, suggestions, trials."""
