"""Countdown: reach a number from given ones; many solutions, search in the chain, an answer that is verified by evaluation."""
