"""The parts of DiskService: proto to domain and back, nothing else."""
