"""What fills the trackers: subscribe a receiver, and its worker process does the rest."""

from receivers._batch import FlushPolicy
from receivers._receiver import Receiver
from receivers._supervisor import WorkerPolicy

__all__ = ["FlushPolicy", "Receiver", "WorkerPolicy"]
