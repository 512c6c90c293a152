"""Converting guests to KVM: records, runs, causes of failure, and what is never left behind."""
