"""What listens at the server of a job: keeps models, finds the best one, writes results."""
