"""The API's methods, by the managed objects they belong to."""
