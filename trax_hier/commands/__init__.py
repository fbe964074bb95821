"""The subcommands of `trax-hier`, one module each.

A subcommand defines HELP, DESCRIPTION, `add_arguments(parser)` and
`main(arguments)`; slow imports happen inside `main`. Modules that only one
subcommand uses carry its name, as in `describe_sections`; the other modules
are common to all.
"""
