"""Integrations: the jobs of a queue, and the progress bars of a program, as tasks of a relay, without a change to their code.

Each module needs its library, and says what to install where that is missing. docs/integrations.md shows how each is set
up, and what each can report.
"""
