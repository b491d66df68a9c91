"""The training: an iteration as a function of its inputs (`gan`), and the loop around it (`loop`)."""
