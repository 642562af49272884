"""TaskCluster: its client, artifacts as a store, task graphs."""
