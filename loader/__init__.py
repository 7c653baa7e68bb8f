"""A base model and adapters, made into a running model: plan, merge or attach, generate."""
