"""The subcommands of `nba`, by area."""
