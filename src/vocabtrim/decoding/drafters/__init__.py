"""The drafter kinds, behind one protocol: begin, propose, commit."""
