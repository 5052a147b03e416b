"""duplexd serves block volumes over NBD, mirrors them, and suspends them all at one point."""

__version__ = "0.1.0"
