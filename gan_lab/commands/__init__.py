"""The command lines over the package, a module each: `main` returns the exit status."""
