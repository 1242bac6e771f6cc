"""What the server of a job does: federated averaging, cross-site evaluation."""
