"""Tests of Q/DQ by graph edit."""
