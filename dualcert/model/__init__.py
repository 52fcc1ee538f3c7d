"""The nouns: frozen, without behaviour that looks at the world."""
