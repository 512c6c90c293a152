"""Virtual disks with content: their snapshots, change generations, and their store."""
