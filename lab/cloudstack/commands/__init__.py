"""The API's commands: lists, imports, machines, volumes, NICs."""
