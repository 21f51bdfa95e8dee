"""From token counts to the ids a drafter keeps, and the file dialects such a choice travels in."""
