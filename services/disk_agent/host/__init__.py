"""What this agent asks of its host: commands, processes, small files that survive a crash."""
