"""Features to scores: will they respond, does contact change it, what is it worth."""
