"""Result table in, figure out."""
