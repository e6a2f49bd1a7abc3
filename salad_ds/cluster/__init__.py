"""Before the first step: do all hosts of a job have the same things, and do they reach each other?

``preflight.py`` has the order of events. ``facts.py`` is what one rank says of itself, ``agreement.py`` what rank 0
makes of what all have said; ``meeting.py`` carries it; ``sharing.py``, ``links.py`` and ``bandwidth.py`` try it out.
"""
