"""Checking a cut afterwards, from its certificate, the journals and the images alone.

Shares nothing with the write path but the bytes of the journal (`journal/format.py`): what is wrong there is not wrong here too. Only
reads, takes no lock, and works beside running daemons.
"""
