"""Conversion of guests to KVM: records, runs of virt-v2v, causes of failure, clean-up."""
