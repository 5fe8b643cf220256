"""One runnable step per arrow of the flow: read, call, write; and the `nba` command."""
