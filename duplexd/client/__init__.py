"""Commands groups of volumes that are spread over several controllers: the coordinator, as a library."""
