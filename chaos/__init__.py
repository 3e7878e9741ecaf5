"""Proofs by breaking things: the chaos program, and drills that each prove one promise with a figure."""
