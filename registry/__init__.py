"""The verbs: pull, inspect, convert, compose, look around, manage."""
