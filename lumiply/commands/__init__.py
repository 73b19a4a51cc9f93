"""The commands of `lumiply`, a module each."""
