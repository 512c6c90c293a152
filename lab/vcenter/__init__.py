"""The lab's vCenter: SOAP over HTTPS, built on pyVmomi's type tables."""
