"""Other places: the Hugging Face Hub and local folders. Bytes are verified by us."""
