"""Long operations on a volume that is being served, asked for or begun by themselves: what each is, how far it has
come, how it ended, and how it is ended before that.

``job.py`` is one, ``jobs.py`` those of a volume that is being served. What a kind of job does belongs to the room
that owns the matter; ``docs/WHERE.md`` says how a kind is registered.
"""
