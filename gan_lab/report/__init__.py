"""From finished runs to what a person reads."""
