"""Calling ActSort from inside the toolkits. Nothing here imports a toolkit before it is used."""
