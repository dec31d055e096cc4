"""The only room that knows Ray: the host of a Ray Train worker, and the trainer around the loop."""
