"""The subcommands of `trax-hier`, one module each.

A subcommand defines HELP, DESCRIPTION, `add_arguments(parser)` and
`main(arguments)`, and is listed in `trax_hier.cli`; slow imports happen inside
`main`. A module that only one subcommand uses starts with its name, such as
`describe_sections`; the other modules are shared.
"""
