"""What operators ask for over HTTP: the cluster, members, leadership, timelines, backups."""
