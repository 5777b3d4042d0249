"""The fleet's Mosquitto: its configuration, its access list, and who is thrown out of it."""
