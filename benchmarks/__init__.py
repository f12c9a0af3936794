"""``make bench``: this project beside torchidl and torchdeq, each part in one process."""
