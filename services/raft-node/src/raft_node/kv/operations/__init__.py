"""The effects of commands on the replicated state: one module for each family of commands, and the table of all.

Everything here is a pure function of the state as of an entry and of that entry: it reads through ``work.Work``, which
was given beforehand what is to be read, and leaves effects there. Nothing here does I/O or looks at a clock.
"""
