"""The parts behind `trax_hier.config`: files, names, types, table, text."""
