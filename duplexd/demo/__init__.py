"""`duplexd demo`: dependent writers over a real daemon, cuts under load, and a checker that can fail."""
