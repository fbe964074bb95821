"""The data cache: what is made of files once, kept on disk for later runs.

`folder` says where it is, `content` identifies files by their content, and
`entries` makes an entry under a lock and renames it when it is complete.
"""
