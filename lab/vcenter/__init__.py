"""A vCenter for the lab: SOAP over HTTPS, built on pyVmomi's own type tables."""
