"""The family ``word_embedding``: spoken words and their pronunciations in one space."""
