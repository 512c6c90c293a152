"""The agent's use of its host: commands, processes, small files that survive a crash."""
