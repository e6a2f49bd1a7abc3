"""``salad-ds serve``: a page on which one speaks to a student, and sees how far it hears from what it would read.

The road of a request: guard.py (who may ask) → app.py (addresses) → uploads.py (sound that can be heard) → turns.py
(one at a time) → student.py (prompts) → compare.py (the answer, token by token) → stream.py (lines of JSON) → static/
(the page).
"""
