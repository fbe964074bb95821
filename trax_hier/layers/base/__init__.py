"""Building blocks of all other layers."""
