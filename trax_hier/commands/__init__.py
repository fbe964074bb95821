"""The commands of `trax-hier`.

A command is a module with HELP and DESCRIPTION, `add_arguments(parser)`, and
`main(arguments)`, which imports what is slow to import.
"""
