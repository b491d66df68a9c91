"""Several processes that train one run together: which one this is, what they tell each other."""
