"""A world of small scenes that we can render, describe and judge: data without a licence."""
