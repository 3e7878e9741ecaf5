"""The systems that Tailrace is measured against, each written as its own documentation or a good tutorial writes it."""
