"""Two certificates for every set of names, from two CAs, under two keys."""
