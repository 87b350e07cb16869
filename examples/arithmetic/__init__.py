"""A reasoning task small enough for two CPU cores: digits combined from left to right modulo 10."""
