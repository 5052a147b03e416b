"""Odd and malformed inputs for NBD servers, and what each server answers.

Sent as bytes, for no client library would send them. docs/nbd-odd-inputs.md has the answers of
duplexd and of three other servers side by side; its table is measured, by `page.py`.
"""
