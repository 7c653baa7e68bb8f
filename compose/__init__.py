"""Algebra of adapters: small pure functions in factor space, without the base model."""
