"""Pure decisions: facts and ``now`` go in, a decision with its reason comes out."""
