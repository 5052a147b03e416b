"""Every request, answer, problem and event of the control socket. Requests refuse unknown fields; everything else may gain some.

Imports nothing of the controller: duplexctl and other clients may use this package alone.
"""
