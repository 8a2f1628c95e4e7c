"""The pace of everything that is sent in bulk: bases, earlier moments, differences.

One ``pacer.Pacer`` a node: whoever sends in bulk asks it before each piece and tells it after. ``limits.py`` is
what people ask for, a rate and a daily window; ``governor.py`` decides how much of the loop's time bulk may have
while clients are being answered. Both are pure.
"""
